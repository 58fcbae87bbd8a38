//! A local directory as an object store for one who only reads: nothing is made there, and blocks are read into memory
//! that is used again.

use std::fs::File;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::durable::{blocking, io_error};
use super::listing::Lister;
use crate::buffers::Buffers;

#[derive(Debug)]
pub struct LookingLocal {
    inner: LocalFileSystem,
    lister: Lister,
    buffers: Arc<Buffers>,
}

impl LookingLocal {
    /// Opens a directory, which must be there.
    pub fn open(directory: &FsPath) -> Result<LookingLocal> {
        let inner = LocalFileSystem::new_with_prefix(directory)?;
        Ok(LookingLocal { inner, lister: Lister::new(directory), buffers: Arc::default() })
    }

    fn refused<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() })
    }
}

impl std::fmt::Display for LookingLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Looking{}", self.inner)
    }
}

/// Ranges of a file, in one trip to the threads that may wait for a disk.
pub(super) async fn read_ranges(
    inner: &LocalFileSystem,
    buffers: &Arc<Buffers>,
    location: &Path,
    ranges: &[Range<u64>],
) -> Result<Vec<Bytes>> {
    let (path, ranges) = (inner.path_to_filesystem(location)?, ranges.to_vec());
    let buffers = Arc::clone(buffers);
    blocking(move || {
        let file = File::open(&path).map_err(|e| io_error(e, "open", &path))?;
        let read_one = |range: Range<u64>| {
            let size_bytes = range.end.saturating_sub(range.start) as usize;
            buffers.read(&file, size_bytes, range.start).map_err(|e| io_error(e, "read", &path))
        };
        ranges.into_iter().map(read_one).collect()
    })
    .await
}

#[async_trait]
impl ObjectStore for LookingLocal {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.refused("`put_opts`")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.refused("`put_multipart_opts`")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        read_ranges(&self.inner, &self.buffers, location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let implementer = self.to_string();
        let refused = move |_| {
            let operation = "`delete_stream`".to_owned();
            Err(Error::NotImplemented { operation, implementer: implementer.clone() })
        };
        locations.map(refused).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lister.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let is_behind = move |object: &ObjectMeta| std::future::ready(object.location > offset);
        self.lister.list(prefix).try_filter(is_behind).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.lister.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.refused("`copy_opts`")
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn what_is_there_is_read_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2 << 20).map(|i: u32| (i * 31 % 251) as u8).collect();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/file"), &bytes).unwrap();
        let (store, file) = (LookingLocal::open(dir.path()).unwrap(), Path::from("in/file"));
        let ranges = [0..1 << 20, 7..9, 1 << 20..2 << 20];
        for (read, range) in store.get_ranges(&file, &ranges).await.unwrap().iter().zip(ranges) {
            assert_eq!(read, &bytes[range.start as usize..range.end as usize]);
        }
        let beyond = 1 << 20..(2 << 20) + 1;
        assert!(store.get_ranges(&file, &[beyond]).await.is_err());
        assert!(matches!(
            store.get_ranges(&Path::from("b"), &[0..1, 2..3]).await,
            Err(Error::NotFound { .. })
        ));
        assert!(store.put(&Path::from("b"), Bytes::from_static(b"b").into()).await.is_err());
        assert!(store.delete(&file).await.is_err());
        assert!(store.copy(&file, &Path::from("b")).await.is_err());
        assert_eq!(store.list(None).collect::<Vec<_>>().await.len(), 1);
        assert!(LookingLocal::open(&dir.path().join("none")).is_err());
    }
}
