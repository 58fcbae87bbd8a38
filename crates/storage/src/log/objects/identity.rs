//! What stands at a place of a chain: read when a creation was refused, or its answer was lost.

use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use crate::wal::object::{FOOTER_BYTES, Footer, HEADER_BYTES, ObjectError, ObjectHeader};

/// An object by all that tells it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub header: ObjectHeader,
    pub index_crc: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("{path} is not readable as an object of a chain: {why}")]
    Object { path: Path, why: ObjectError },
}

/// Reads who an object is; `None` where there is none.
pub async fn inspect(store: &dyn ObjectStore, path: &Path) -> Result<Option<Identity>, InspectError> {
    let damaged = |why| InspectError::Object { path: path.clone(), why };
    let front = match store.get_range(path, 0..HEADER_BYTES as u64).await {
        Ok(front) => front,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let header = ObjectHeader::decode(&front).map_err(damaged)?;
    let options = GetOptions { range: Some(GetRange::Suffix(FOOTER_BYTES as u64)), ..GetOptions::default() };
    let end = match store.get_opts(path, options).await {
        Ok(end) => end.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let footer = Footer::decode(&end).map_err(damaged)?;
    Ok(Some(Identity { header, index_crc: footer.index_crc }))
}
