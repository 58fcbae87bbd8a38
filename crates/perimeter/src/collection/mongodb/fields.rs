//! Where columns are in documents, and what is there.

use std::collections::BTreeMap;

use mongodb::bson::{Document, RawBsonRef, RawDocument};

/// Names of fields within each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// As the configuration writes it: `address.city`.
    pub fn parse(text: &str) -> Option<FieldPath> {
        let steps: Vec<String> = text.split('.').map(str::to_owned).collect();
        steps.iter().all(|step| is_plain(step)).then_some(FieldPath(steps))
    }

    /// A field of the document itself, whatever its name.
    pub fn of_name(name: &str) -> FieldPath {
        FieldPath(vec![name.to_owned()])
    }

    /// Whether what is at `other` is a part of what is here, or the same.
    pub fn contains(&self, other: &FieldPath) -> bool {
        other.0.starts_with(&self.0)
    }

    /// As the server reads it. None: it would take it for something else.
    pub fn written(&self) -> Option<String> {
        self.0.iter().all(|step| is_plain(step)).then(|| self.0.join("."))
    }
}

fn is_plain(step: &str) -> bool {
    !step.is_empty() && !step.starts_with('$') && !step.contains(['.', '\0'])
}

/// What a document has for a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'d> {
    Nothing,
    Value(RawBsonRef<'d>),
    /// Its bytes are no value.
    Damaged,
}

/// The fields that a scan wants, as a tree.
#[derive(Debug)]
pub struct Fields {
    root: Node,
    columns: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Columns that are here.
    columns: Vec<usize>,
    inner: BTreeMap<String, Node>,
}

impl Fields {
    /// One path for each column.
    pub fn new(paths: &[&FieldPath]) -> Fields {
        let mut root = Node::default();
        for (column, path) in paths.iter().enumerate() {
            let at = path.0.iter().fold(&mut root, |node, step| node.inner.entry(step.clone()).or_default());
            at.columns.push(column);
        }
        Fields { root, columns: paths.len() }
    }

    /// Which fields the server is to send. Empty: all of them, because it could not be told.
    pub fn projection(&self) -> Document {
        let mut projection = Document::new();
        if !self.root.project("", &mut projection) {
            return Document::new();
        }
        if !self.root.inner.contains_key("_id") {
            // Of documents that only count, something has to come.
            projection.insert("_id", i32::from(projection.is_empty()));
        }
        projection
    }

    /// What each column has. Of a name that is there twice, the first counts.
    pub fn read<'d>(&self, document: &'d RawDocument) -> Vec<Found<'d>> {
        let mut found = vec![Found::Nothing; self.columns];
        self.root.read(document, &mut found);
        found
    }
}

impl Node {
    /// False: a name is one that the server would take for something else.
    fn project(&self, above: &str, projection: &mut Document) -> bool {
        self.inner.iter().all(|(name, node)| {
            let path = format!("{above}{name}");
            if !is_plain(name) {
                return false;
            }
            // What is within a field that is wanted comes with it; both together would be refused.
            if node.columns.is_empty() {
                return node.project(&format!("{path}."), projection);
            }
            projection.insert(path, 1);
            true
        })
    }

    fn read<'d>(&self, document: &'d RawDocument, found: &mut [Found<'d>]) {
        for element in document.iter_elements() {
            let Ok(element) = element else { return self.put(Found::Damaged, found) };
            let Some(node) = self.inner.get(element.key().as_str()) else { continue };
            match element.value() {
                Ok(value) => {
                    node.columns.iter().for_each(|column| put(Found::Value(value), &mut found[*column]));
                    if let RawBsonRef::Document(inner) = value {
                        node.read(inner, found);
                    }
                }
                Err(_) => node.put(Found::Damaged, found),
            }
        }
    }

    /// Here and everywhere within.
    fn put<'d>(&self, what: Found<'d>, found: &mut [Found<'d>]) {
        self.columns.iter().for_each(|column| put(what, &mut found[*column]));
        self.inner.values().for_each(|node| node.put(what, found));
    }
}

fn put<'d>(what: Found<'d>, place: &mut Found<'d>) {
    if *place == Found::Nothing {
        *place = what;
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawDocumentBuf, doc};

    use super::*;

    fn fields(paths: &[&str]) -> Fields {
        let paths: Vec<FieldPath> = paths
            .iter()
            .map(|path| FieldPath::parse(path).unwrap_or_else(|| FieldPath::of_name(path)))
            .collect();
        Fields::new(&paths.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_server_sends_what_is_wanted() {
        for (paths, expected) in [
            (vec![], doc! { "_id": 1 }),
            (vec!["_id"], doc! { "_id": 1 }),
            (vec!["b", "a"], doc! { "a": 1, "b": 1, "_id": 0 }),
            (vec!["a.b", "a.c", "a.b"], doc! { "a.b": 1, "a.c": 1, "_id": 0 }),
            (vec!["a.b.c", "a.b", "a.d"], doc! { "a.b": 1, "a.d": 1, "_id": 0 }),
            (vec!["a", "$b"], doc! {}),
            (vec!["a", "b.$c"], doc! {}),
            (vec![""], doc! {}),
        ] {
            assert_eq!(fields(&paths).projection(), expected, "{paths:?}");
        }
    }

    #[test]
    fn values_are_found_by_their_paths() {
        let document = RawDocumentBuf::try_from(&doc! {
            "a": { "b": 1, "c": { "d": "x" } }, "e": [{ "f": 1 }], "g.h": true,
        })
        .unwrap();
        let found = fields(&["a.b", "a.c.d", "e.f", "g.h", "nothing", "a.b"]);
        // A name with a dot in it is one field here.
        let dotted = Fields::new(&[&FieldPath::of_name("g.h")]);
        assert_eq!(dotted.read(&document), [Found::Value(RawBsonRef::Boolean(true))]);
        assert_eq!(dotted.projection(), doc! {});
        assert_eq!(
            found.read(&document),
            [
                Found::Value(RawBsonRef::Int32(1)),
                Found::Value(RawBsonRef::String("x")),
                Found::Nothing,
                Found::Nothing,
                Found::Nothing,
                Found::Value(RawBsonRef::Int32(1)),
            ]
        );
    }

    #[test]
    fn damaged_bytes_are_told_and_do_not_hide_what_is_before_them() {
        let mut bytes = RawDocumentBuf::try_from(&doc! { "a": 1, "b": "text", "c": 2 }).unwrap().into_bytes();
        let at = bytes.windows(4).position(|four| four == b"text").unwrap();
        bytes[at] = 0xff;
        let document = RawDocumentBuf::from_bytes(bytes).unwrap();
        assert_eq!(
            fields(&["a", "b", "c"]).read(&document),
            [Found::Value(RawBsonRef::Int32(1)), Found::Damaged, Found::Value(RawBsonRef::Int32(2))]
        );
        let mut bytes = RawDocumentBuf::try_from(&doc! { "a": 1, "b": 2, "c": 3 }).unwrap().into_bytes();
        let at = bytes.windows(2).position(|two| two == b"b\0").unwrap();
        bytes[at - 1] = 0x60;
        let document = RawDocumentBuf::from_bytes(bytes).unwrap();
        let found = fields(&["a", "b.x", "c"]).read(&document);
        assert_eq!(found, [Found::Value(RawBsonRef::Int32(1)), Found::Damaged, Found::Damaged]);
    }
}
