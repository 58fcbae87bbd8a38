//! `.proto` texts: compiled with what they import, by `protox`.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File as ProtoFile, FileResolver, GoogleFileResolver};

/// Braces within braces: the compiler recurses on them.
const MAX_DEPTH: usize = 64;
const MAX_BYTES: usize = 4 << 20;

/// Why a text gives no messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("{0}")]
    Compile(String),
    #[error("{0} is nested too deep or too large")]
    TooLarge(String),
    #[error("it has no message")]
    Empty,
    #[error("it has no message {0}")]
    NoMessage(String),
}

/// A compiled text.
#[derive(Debug, Clone)]
pub struct File {
    file: FileDescriptor,
}

/// Finds the text of an import by its path.
pub trait Imports: Send + Sync {
    fn text(&self, name: &str) -> Option<String>;
}

impl Imports for HashMap<String, String> {
    fn text(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

struct Texts<I> {
    name: String,
    text: String,
    imports: I,
}

impl<I: Imports> FileResolver for Texts<I> {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        path.to_str().filter(|path| *path == self.name).map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<ProtoFile, protox::Error> {
        let text = if name == self.name { Some(self.text.clone()) } else { self.imports.text(name) };
        let text = text.ok_or_else(|| protox::Error::file_not_found(name))?;
        if let Some(file) = compiled(name, &text) {
            return Ok(ProtoFile::from_file_descriptor_proto(file));
        }
        check(name, &text).map_err(protox::Error::new)?;
        ProtoFile::from_source(name, &text)
    }
}

impl File {
    pub fn compile(name: &str, text: &str, imports: impl Imports + 'static) -> Result<File, FileError> {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts { name: name.to_owned(), text: text.to_owned(), imports });
        resolver.add(GoogleFileResolver::new());
        let failed = |error: protox::Error| FileError::Compile(error.to_string());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file(name).map_err(failed)?;
        let pool: DescriptorPool = compiler.descriptor_pool();
        let file = pool.get_file_by_name(name).ok_or(FileError::Empty)?;
        Ok(File { file })
    }

    /// A message by its name; without one, the first.
    pub fn message(&self, name: Option<&str>) -> Result<MessageDescriptor, FileError> {
        match name {
            None => self.file.messages().next().ok_or(FileError::Empty),
            Some(name) => {
                let pool = self.file.parent_pool();
                let in_package = || pool.get_message_by_name(&format!("{}.{name}", self.file.package_name()));
                let found = pool.get_message_by_name(name).or_else(in_package);
                found.ok_or_else(|| FileError::NoMessage(name.to_owned()))
            }
        }
    }

    /// The message that a value names by its place: among those of the file, then among those in that one, and so on.
    pub fn at(&self, places: &[i64]) -> Option<MessageDescriptor> {
        let (first, rest) = places.split_first()?;
        let first = self.file.messages().nth(usize::try_from(*first).ok()?)?;
        rest.iter().try_fold(first, |message, place| {
            let mut written = message.child_messages().filter(|child| !child.is_map_entry());
            written.nth(usize::try_from(*place).ok()?)
        })
    }
}

/// Confluent's serializer for Python registers what the compiler made of a file, in base64, and some registries keep it so.
fn compiled(name: &str, text: &str) -> Option<FileDescriptorProto> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    let mut file = FileDescriptorProto::decode(bytes.as_slice()).ok()?;
    file.name = Some(name.to_owned());
    Some(file)
}

/// Refuses what the compiler might not come back from.
fn check(name: &str, text: &str) -> Result<(), FileError> {
    let refused = || FileError::TooLarge(name.to_owned());
    if text.len() > MAX_BYTES {
        return Err(refused());
    }
    let (mut depth, mut chars) = (0_usize, text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '{' | '[' | '(' | '<' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(refused());
                }
            }
            '}' | ']' | ')' | '>' => depth = depth.saturating_sub(1),
            '"' | '\'' => {
                while let Some(inside) = chars.next() {
                    match inside {
                        '\\' => _ = chars.next(),
                        '\n' => break,
                        other if other == c => break,
                        _ => {}
                    }
                }
            }
            '/' if chars.peek() == Some(&'/') => _ = chars.find(|c| *c == '\n'),
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let mut before = ' ';
                for inside in chars.by_ref() {
                    match (before, inside) {
                        ('*', '/') => break,
                        // Comments in comments are an error of their own, where counting braces goes wrong.
                        ('/', '*') => return Err(refused()),
                        _ => before = inside,
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str, imports: &[(&str, &str)]) -> Result<File, FileError> {
        let imports: HashMap<String, String> =
            imports.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        File::compile("a.proto", text, imports)
    }

    const TWO: &str = r#"syntax = "proto3"; package p; import "b.proto"; import "google/protobuf/timestamp.proto";
        message A { map<string, q.B> m = 1; message In { google.protobuf.Timestamp t = 1; } }
        message Z {}"#;

    #[test]
    fn messages_are_found_by_name_and_by_place() {
        let file = compile(TWO, &[("b.proto", "syntax = \"proto3\"; package q; message B {}")]).unwrap();
        for (name, found) in [
            (None, "p.A"),
            (Some("Z"), "p.Z"),
            (Some("p.Z"), "p.Z"),
            (Some("A.In"), "p.A.In"),
            (Some("q.B"), "q.B"),
        ] {
            assert_eq!(file.message(name).unwrap().full_name(), found);
        }
        assert_eq!(file.message(Some("N")), Err(FileError::NoMessage("N".to_owned())));
        for (places, found) in [
            (&[0][..], Some("p.A")),
            (&[1], Some("p.Z")),
            (&[0, 0], Some("p.A.In")),
            (&[2], None),
            (&[-1], None),
        ] {
            assert_eq!(file.at(places).as_ref().map(MessageDescriptor::full_name), found, "{places:?}");
        }
    }

    #[test]
    fn a_compiled_file_in_base64_will_do() {
        let file = compile(TWO, &[("b.proto", "syntax = \"proto3\"; package q; message B {}")]).unwrap();
        let encoded = |file: &FileDescriptor| STANDARD.encode(file.file_descriptor_proto().encode_to_vec());
        let other = file.file.dependencies().find(|file| file.name() == "b.proto").unwrap();
        let again = compile(&encoded(&file.file), &[("b.proto", &encoded(&other))]).unwrap();
        assert_eq!(again.message(Some("A.In")).unwrap().full_name(), "p.A.In");
    }

    #[test]
    fn what_does_not_compile_is_refused() {
        let missing = compile(TWO, &[]).unwrap_err().to_string();
        assert!(missing.contains("b.proto"), "{missing}");
        let nested = |text: &str| format!("{}{}", text.repeat(100_000), "}".repeat(100_000));
        let itself = "syntax = \"proto3\"; import \"a.proto\"; message A {}";
        for text in [
            "",
            "message",
            &nested("message A {"),
            &nested("/* } */ message A {"),
            &nested("// }\nmessage A {"),
            itself,
        ] {
            let read = compile(text, &[]);
            assert!(read.and_then(|file| file.message(None)).is_err(), "{}", &text[..text.len().min(60)]);
        }
    }
}
