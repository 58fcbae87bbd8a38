//! Objects in memory, as the pieces that they were put in: nothing is copied on its way in, and only what spans pieces on its way out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::RwLock;

#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Arc<RwLock<BTreeMap<Path, Object>>>,
}

#[derive(Debug, Clone)]
struct Object {
    /// Each with the position where it ends.
    pieces: Arc<[(u64, Bytes)]>,
    put_at: SystemTime,
}

impl Object {
    fn of(payload: &PutPayload) -> Object {
        let mut end = 0;
        let piece = |piece: &Bytes| {
            end += piece.len() as u64;
            (end, piece.clone())
        };
        Object { pieces: payload.iter().map(piece).collect(), put_at: SystemTime::now() }
    }

    fn size_bytes(&self) -> u64 {
        self.pieces.last().map_or(0, |(end, _)| *end)
    }

    fn meta(&self, location: &Path) -> ObjectMeta {
        ObjectMeta {
            location: location.clone(),
            last_modified: self.put_at.into(),
            size: self.size_bytes(),
            e_tag: None,
            version: None,
        }
    }

    fn slices(&self, range: Range<u64>) -> Vec<Bytes> {
        let first = self.pieces.partition_point(|(end, _)| *end <= range.start);
        let pieces = self.pieces[first..].iter();
        pieces
            .map(|(end, piece)| (end - piece.len() as u64, piece))
            .take_while(|(start, _)| *start < range.end)
            .map(|(start, piece)| {
                let to = (range.end - start).min(piece.len() as u64);
                piece.slice(range.start.saturating_sub(start) as usize..to as usize)
            })
            .collect()
    }

    fn bytes(&self, range: Range<u64>) -> Bytes {
        let mut slices = self.slices(range);
        if slices.len() == 1 { slices.remove(0) } else { slices.concat().into() }
    }

    fn range(&self, asked: &GetRange) -> Result<Range<u64>> {
        asked.as_range(self.size_bytes()).map_err(|e| Error::Generic { store: STORE, source: e.into() })
    }
}

const STORE: &str = "Memory";

impl MemoryStore {
    fn object(&self, location: &Path) -> Result<Object> {
        self.objects.read().get(location).cloned().ok_or_else(|| Error::NotFound {
            path: location.to_string(),
            source: "no such object in memory".into(),
        })
    }

    /// The objects below a prefix, which is not an object's whole name.
    fn below(&self, prefix: Option<&Path>) -> Vec<ObjectMeta> {
        let root = Path::default();
        let prefix = prefix.unwrap_or(&root);
        let objects = self.objects.read();
        let begins = objects.range(prefix..).take_while(|(at, _)| at.as_ref().starts_with(prefix.as_ref()));
        let below = |at: &Path| at.prefix_match(prefix).is_some_and(|mut parts| parts.next().is_some());
        begins.filter(|(at, _)| below(at)).map(|(at, object)| object.meta(at)).collect()
    }

    fn refuse<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() })
    }
}

impl std::fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            return self.refuse("`put_opts` with a version or with attributes");
        }
        let object = Object::of(&payload);
        let mut objects = self.objects.write();
        if matches!(options.mode, PutMode::Create) && objects.contains_key(location) {
            let (path, source) = (location.to_string(), "the object is there already".into());
            return Err(Error::AlreadyExists { path, source });
        }
        objects.insert(location.clone(), object);
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.refuse("`put_multipart_opts`")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.object(location)?;
        let meta = object.meta(location);
        options.check_preconditions(&meta)?;
        let range = options.range.map_or(Ok(0..meta.size), |range| object.range(&range))?;
        let slices = object.slices(range.clone()).into_iter().map(Ok);
        let payload = GetResultPayload::Stream(stream::iter(slices).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let object = self.object(location)?;
        let asked = |range: &Range<u64>| object.range(&GetRange::Bounded(range.clone()));
        ranges.iter().map(|range| Ok(object.bytes(asked(range)?))).collect()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let objects = Arc::clone(&self.objects);
        let delete = move |location: Result<Path>| {
            location.inspect(|location| {
                objects.write().remove(location);
            })
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter(self.below(prefix).into_iter().map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        let at = prefix.unwrap_or(&root);
        let (mut objects, mut prefixes) = (Vec::new(), BTreeSet::new());
        for object in self.below(prefix) {
            let mut parts = object.location.prefix_match(at).into_iter().flatten();
            match (parts.next(), parts.next()) {
                (Some(child), Some(_)) => {
                    prefixes.insert(at.clone().join(child));
                }
                (_, _) => objects.push(object.clone()),
            }
        }
        Ok(ListResult { objects, common_prefixes: prefixes.into_iter().collect() })
    }

    /// Nothing copies objects.
    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        self.refuse("`copy_opts`")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    async fn with_objects(names: &[&str]) -> MemoryStore {
        let store = MemoryStore::default();
        for name in names {
            let pieces = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh")];
            store.put(&Path::from(*name), pieces.into_iter().collect()).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn any_range_of_pieces_reads_as_one_object() {
        let store = with_objects(&["a"]).await;
        let at = Path::from("a");
        for start in 0..8u64 {
            for end in start + 1..=8 {
                let expected = &b"abcdefgh"[start as usize..end as usize];
                let ranges = [start..end, 0..1];
                assert_eq!(store.get_ranges(&at, &ranges).await.unwrap()[0], expected);
                assert_eq!(store.get_range(&at, start..end).await.unwrap(), expected);
            }
        }
        assert_eq!(store.get_range(&at, 6..100).await.unwrap(), "gh", "to the end at most, as other stores");
        assert!(store.get_range(&at, 8..9).await.is_err());
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "abcdefgh");
        assert_eq!(store.head(&at).await.unwrap().size, 8);
    }

    #[tokio::test]
    async fn a_piece_is_given_as_it_was_put() {
        let store = MemoryStore::default();
        let piece = Bytes::from(vec![7; 100]);
        store
            .put(&Path::from("a"), [piece.clone(), Bytes::from_static(b"end")].into_iter().collect())
            .await
            .unwrap();
        let read = store.get_range(&Path::from("a"), 10..90).await.unwrap();
        assert_eq!(read.as_ptr(), piece[10..].as_ptr(), "no copy");
    }

    #[tokio::test]
    async fn names_are_created_listed_and_deleted_as_in_other_stores() {
        let store = with_objects(&["a/b", "a/c/d", "a/c/e", "ab"]).await;
        let create = PutOptions::from(PutMode::Create);
        let again = store.put_opts(&Path::from("ab"), PutPayload::new(), create).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        let a = Path::from("a");
        let listed: Vec<_> = store.list(Some(&a)).map_ok(|meta| meta.location).try_collect().await.unwrap();
        assert_eq!(listed, ["a/b", "a/c/d", "a/c/e"].map(Path::from));
        let level = store.list_with_delimiter(Some(&a)).await.unwrap();
        assert_eq!(level.common_prefixes, [Path::from("a/c")]);
        assert_eq!(level.objects.len(), 1);
        assert_eq!(store.list_with_delimiter(None).await.unwrap().common_prefixes, [a]);
        store.delete(&Path::from("a/b")).await.unwrap();
        assert!(matches!(store.get(&Path::from("a/b")).await, Err(Error::NotFound { .. })));
    }
}
