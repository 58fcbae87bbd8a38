//! Who is calling: bearer tokens from a variable or a file, access tokens of an OpenID Connect issuer, what each may do, and
//! the TLS that a listener shows.
//!
//! It serves nothing by itself: a server hands it the `Authorization` header of a request and gets a [`Principal`] or the reason
//! why there is none ([`Denied`]), with what the client is to be told ([`challenge`]).
//!
//! Invariant: what a caller may see or do with a resource is not decided here, only who the caller is.

mod authenticator;
pub mod challenge;
pub mod config;
pub mod follow;
pub mod http_get;
mod issuer;
mod jwt;
pub mod names;
mod principal;
pub mod tls;
mod tokens;
mod verifier;

pub use authenticator::{Authenticator, Denied};
pub use config::{IdentityConfig, IdentityError, IdentitySettings};
pub use http_get::Unavailable;
pub use issuer::{Issuer, IssuerConfig, trusted_uri};
pub use jwt::Expected;
pub use principal::{Principal, Scope};
pub use tokens::{TokenFileError, Tokens};
