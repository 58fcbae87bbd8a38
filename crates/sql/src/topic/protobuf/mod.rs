//! Values in Protobuf: [`file`] reads `.proto` texts, [`table`] makes of a message what its columns are, [`read`] reads the bytes of a
//! value ([`wire`]) into them.

pub mod file;
pub mod read;
pub mod table;
pub mod wire;

pub use file::{File, FileError};
pub use table::Table;
pub use wire::Bad;
