//! The settings that say who is let in, checked once and valid afterwards.
//!
//! Several servers of one program have these settings, each under variables of its own: [`IdentitySettings::variables`] is what
//! their names begin with, so that an error names the one that a user can set.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::Uri;

use crate::challenge::Resource;
use crate::http_get::HttpClient;
use crate::tls::{ServerTls, TlsError};
use crate::{Authenticator, Expected, Issuer, IssuerConfig, Scope, TokenFileError, trusted_uri};

/// A shorter token is guessed.
const TOKEN_MIN_CHARS: usize = 8;

/// Settings as they are given. [`IdentityConfig::new`] checks them.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// What the names of the variables begin with: `KAFSCALE_MCP`.
    pub variables: &'static str,
    /// What the server is, for people who ask an issuer for a token.
    pub title: &'static str,
    /// What a token must allow.
    pub scope: Scope,
    pub auth_token: Option<String>,
    pub auth_token_file: Option<PathBuf>,
    /// The issuer whose access tokens are accepted, exactly as it calls itself in them.
    pub oidc_issuer: Option<String>,
    /// What its tokens must be for. Empty: `public_url`.
    pub oidc_audiences: Vec<String>,
    /// Where its keys are. None: where its own metadata say.
    pub oidc_jwks_url: Option<String>,
    /// How clients reach the server. Needed with an issuer, who gives out tokens for this.
    pub public_url: Option<String>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    /// Authorities that vouch for the issuer, and for whatever else the server asks over TLS. None: those of the system.
    pub ca_file: Option<PathBuf>,
}

impl IdentitySettings {
    /// Nobody is known, and there is no TLS.
    pub fn new(variables: &'static str, title: &'static str, scope: Scope) -> Self {
        Self {
            variables,
            title,
            scope,
            auth_token: None,
            auth_token_file: None,
            oidc_issuer: None,
            oidc_audiences: Vec::new(),
            oidc_jwks_url: None,
            public_url: None,
            tls_cert_file: None,
            tls_key_file: None,
            ca_file: None,
        }
    }
}

/// What is wrong with the settings; the text is what a user sees.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "without authentication the {title} listens on loopback only, not on {address}: set {variables}_AUTH_TOKEN, \
         {variables}_AUTH_TOKEN_FILE or {variables}_OIDC_ISSUER, or listen on 127.0.0.1"
    )]
    OpenToTheNetwork { title: &'static str, variables: &'static str, address: SocketAddr },
    #[error("{0}_AUTH_TOKEN must have at least {TOKEN_MIN_CHARS} characters, all of them visible ASCII")]
    WeakToken(&'static str),
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("a certificate and its key belong together: set both {0}_TLS_CERT_FILE and {0}_TLS_KEY_FILE")]
    HalfTls(&'static str),
    #[error(
        "{0:?} is not an issuer: expected https://host/path exactly as in the claim iss of its tokens (http only on loopback)"
    )]
    Issuer(String),
    #[error(
        "{0:?} is not the address of an issuer's keys: expected https://host/path (http only on loopback)"
    )]
    Jwks(String),
    #[error("{0:?} is not the address of this server: expected https://host/mcp, without query")]
    PublicUrl(String),
    #[error(
        "an issuer gives out tokens for an address: with {0}_OIDC_ISSUER set {0}_PUBLIC_URL as clients \
         write it, such as https://mcp.example/mcp"
    )]
    NoPublicUrl(&'static str),
    #[error("{0}_OIDC_AUDIENCE and {0}_OIDC_JWKS_URL mean nothing without {0}_OIDC_ISSUER")]
    NoIssuer(&'static str),
}

/// The settings, valid.
#[derive(Debug)]
pub struct IdentityConfig {
    pub authenticator: Authenticator,
    /// What a token must allow.
    pub scope: Scope,
    /// What clients are told who need a token.
    pub resource: Option<Resource>,
    /// How clients reach the server.
    pub public_url: Option<Uri>,
    pub tls: Option<ServerTls>,
    /// Asks others, trusting the authorities of the settings.
    pub http: HttpClient,
}

impl IdentityConfig {
    /// Checks the settings of a server on this address, and reads the files that they name.
    pub fn new(settings: &IdentitySettings, listen: SocketAddr) -> Result<Self, IdentityError> {
        let http = HttpClient::new(settings.ca_file.as_deref())?;
        let authenticator = authenticator(settings, listen, &http)?;
        let tls = match (&settings.tls_cert_file, &settings.tls_key_file) {
            (Some(cert), Some(key)) => Some(ServerTls::load(cert, key)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(IdentityError::HalfTls(settings.variables)),
        };
        let public_url = public_url(settings)?;
        let resource = resource(settings, public_url.clone());
        Ok(Self { authenticator, scope: settings.scope, resource, public_url, tls, http })
    }
}

fn authenticator(
    settings: &IdentitySettings,
    listen: SocketAddr,
    http: &HttpClient,
) -> Result<Authenticator, IdentityError> {
    let issuer = issuer(settings)?.map(|config| Issuer::new(config, http.clone()));
    let token = settings.auth_token.as_deref().filter(|token| !token.is_empty());
    let mut authenticator = Authenticator::open(settings.scope);
    if token.is_some() || settings.auth_token_file.is_some() {
        if token.is_some_and(|t| t.len() < TOKEN_MIN_CHARS || !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(IdentityError::WeakToken(settings.variables));
        }
        authenticator = Authenticator::with_tokens(settings.scope, token, settings.auth_token_file.clone())?;
    } else if issuer.is_none() && !listen.ip().is_loopback() {
        let IdentitySettings { title, variables, .. } = *settings;
        return Err(IdentityError::OpenToTheNetwork { title, variables, address: listen });
    }
    Ok(match issuer {
        Some(issuer) => authenticator.and_issuer(issuer),
        None => authenticator,
    })
}

fn issuer(settings: &IdentitySettings) -> Result<Option<IssuerConfig>, IdentityError> {
    let Some(issuer) = &settings.oidc_issuer else {
        let alone = settings.oidc_audiences.is_empty() && settings.oidc_jwks_url.is_none();
        return if alone { Ok(None) } else { Err(IdentityError::NoIssuer(settings.variables)) };
    };
    let uri = trusted_uri(issuer).filter(|uri| uri.query().is_none());
    uri.ok_or_else(|| IdentityError::Issuer(issuer.clone()))?;
    let public_url = settings.public_url.clone().ok_or(IdentityError::NoPublicUrl(settings.variables))?;
    let audiences = match settings.oidc_audiences.as_slice() {
        [] => vec![public_url],
        given => given.to_vec(),
    };
    let jwks = settings.oidc_jwks_url.as_ref();
    let jwks =
        jwks.map(|url| trusted_uri(url).ok_or_else(|| IdentityError::Jwks(url.clone()))).transpose()?;
    Ok(Some(IssuerConfig { expected: Expected { issuer: issuer.clone(), audiences }, jwks }))
}

fn public_url(settings: &IdentitySettings) -> Result<Option<Uri>, IdentityError> {
    let Some(url) = &settings.public_url else { return Ok(None) };
    let uri: Option<Uri> = url.parse().ok();
    let uri = uri.filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    });
    uri.map(Some).ok_or_else(|| IdentityError::PublicUrl(url.clone()))
}

fn resource(settings: &IdentitySettings, public_url: Option<Uri>) -> Option<Resource> {
    let (name, issuer) = (settings.public_url.clone()?, settings.oidc_issuer.clone()?);
    let IdentitySettings { title, scope, .. } = *settings;
    Some(Resource { name, public_url: public_url?, issuer, title, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &str, change: impl FnOnce(&mut IdentitySettings)) -> Result<IdentityConfig, String> {
        let mut settings = IdentitySettings::new("KAFSCALE_MCP", "MCP server", Scope::Observe);
        change(&mut settings);
        IdentityConfig::new(&settings, listen.parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn without_authentication_only_loopback_is_served() {
        assert!(check("127.0.0.1:8090", |_| {}).is_ok());
        assert!(check("[::1]:8090", |_| {}).is_ok());
        let open = check("0.0.0.0:8090", |_| {}).unwrap_err();
        assert!(open.contains("loopback only") && open.contains("KAFSCALE_MCP_AUTH_TOKEN,"), "{open}");
        check("0.0.0.0:8090", |s| s.auth_token = Some("local-dev-token".into())).unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for change in [
            (|s| s.auth_token = Some("short".into())) as fn(&mut IdentitySettings),
            |s| s.auth_token = Some("with spaces in it".into()),
            |s| s.auth_token_file = Some("/does/not/exist".into()),
            |s| s.oidc_issuer = Some("https://id.example".into()),
            |s| s.oidc_audiences = vec!["kafscale".into()],
            |s| {
                s.oidc_issuer = Some("http://id.example".into());
                s.public_url = Some("https://mcp.example/mcp".into());
            },
            |s| s.public_url = Some("mcp.example".into()),
            |s| s.tls_cert_file = Some("/does/not/exist".into()),
            |s| s.ca_file = Some("/does/not/exist".into()),
        ] {
            assert!(check("127.0.0.1:8090", change).is_err());
        }
    }
}
