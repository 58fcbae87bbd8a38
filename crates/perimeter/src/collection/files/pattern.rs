//! Which files belong to a table: patterns with `*`, `?` and `**`, and the columns that are in the names of directories
//! (`year=2024`, as Hive writes them).

/// A path below the root, with wildcards in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`: any directories, or none.
    AnyDepth,
    Name(String),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a path begins below the root, and has no `..` in it")]
    LeavesRoot,
    #[error("a path has at most {MAX_PARTS} parts")]
    TooDeep,
    #[error("a path is not empty, nor is any of its parts")]
    Empty,
}

pub const MAX_PARTS: usize = 32;

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.starts_with('/') {
            return Err(PatternError::LeavesRoot);
        }
        let part = |part: &str| match part {
            ".." | "." => Err(PatternError::LeavesRoot),
            "" => Err(PatternError::Empty),
            "**" => Ok(Part::AnyDepth),
            name => Ok(Part::Name(name.to_owned())),
        };
        let parts: Vec<Part> = text.split('/').map(part).collect::<Result<_, _>>()?;
        if parts.len() > MAX_PARTS {
            return Err(PatternError::TooDeep);
        }
        Ok(Pattern { parts })
    }

    /// Just this file.
    pub fn exactly(path: &str) -> Pattern {
        Pattern { parts: path.split('/').map(|name| Part::Name(name.to_owned())).collect() }
    }

    /// Everything below a directory.
    pub fn below(directory: &str) -> Pattern {
        let mut pattern = Pattern::exactly(directory);
        pattern.parts.extend([Part::AnyDepth, Part::Name("*".to_owned())]);
        pattern
    }

    /// Everything below the root.
    pub fn all() -> Pattern {
        Pattern { parts: vec![Part::AnyDepth, Part::Name("*".to_owned())] }
    }

    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        matches(&self.parts, &names)
    }

    /// Whether files below this directory may match.
    pub fn may_be_below(&self, directory: &str) -> bool {
        let names: Vec<&str> = directory.split('/').filter(|name| !name.is_empty()).collect();
        may_be_below(&self.parts, &names)
    }

    /// What all paths begin with, up to and without the first wildcard: a directory, or empty.
    pub fn fixed_directory(&self) -> String {
        let is_fixed = |part: &&Part| matches!(part, Part::Name(name) if !name.contains(['*', '?']));
        let last = self.parts.len().saturating_sub(1);
        let names = self.parts[..last].iter().take_while(is_fixed).filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::AnyDepth => None,
        });
        names.collect::<Vec<_>>().join("/")
    }
}

fn matches(parts: &[Part], names: &[&str]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((Part::AnyDepth, rest)), _) => {
            // A directory that `**` passes is no hidden one.
            (0..=names.len()).any(|skipped| {
                names[..skipped].iter().all(|name| !is_hidden(name)) && matches(rest, &names[skipped..])
            })
        }
        (Some((Part::Name(part), rest)), Some((name, names))) => glob(part, name) && matches(rest, names),
        _ => false,
    }
}

fn may_be_below(parts: &[Part], directory: &[&str]) -> bool {
    match (parts.split_first(), directory.split_first()) {
        (Some(_), None) => true,
        (None, _) => false,
        (Some((Part::AnyDepth, _)), _) => directory.iter().all(|name| !is_hidden(name)),
        (Some((Part::Name(part), rest)), Some((name, names))) => {
            !rest.is_empty() && glob(part, name) && may_be_below(rest, names)
        }
    }
}

/// Files that programs keep for themselves, such as `_SUCCESS`. A wildcard does not mean them.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// `*` is any text, `?` any character.
fn glob(pattern: &str, name: &str) -> bool {
    if is_hidden(name) && pattern.starts_with(['*', '?']) {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of, mut star) = (0, 0, None);
    // The last star takes one more each time that the rest does not match: no worse than the product of the lengths.
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[of] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    (at, of) = (star_at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Names and values of the columns in a path.
pub fn partitions(path: &str) -> Vec<(String, Option<String>)> {
    let directories = path.rsplit_once('/').map_or("", |(directories, _)| directories);
    let pairs = directories.split('/').filter_map(|name| name.split_once('='));
    let pairs = pairs.filter(|(key, _)| !key.is_empty());
    pairs.map(|(key, value)| (key.to_owned(), value_of(value))).collect()
}

fn value_of(text: &str) -> Option<String> {
    if text == "__HIVE_DEFAULT_PARTITION__" {
        return None;
    }
    let bytes = text.as_bytes();
    let mut value = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = escaped.filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        match (bytes[at], escaped.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                value.push(byte);
                at += 3;
            }
            (byte, _) => {
                value.push(byte);
                at += 1;
            }
        }
    }
    Some(String::from_utf8(value).unwrap_or_else(|_| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path, expected) in [
            ("a.csv", "a.csv", true),
            ("*.csv", "a.csv", true),
            ("*.csv", "x/a.csv", false),
            ("*.csv", ".a.csv", false),
            (".a*", ".a.csv", true),
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "x/y/a.csv", true),
            ("**/*.csv", "x/_tmp/a.csv", false),
            ("trials/*/year=*/*.parquet", "trials/a/year=2024/x.parquet", true),
            ("trials/*/year=*/*.parquet", "trials/a/b/year=2024/x.parquet", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        // Not exponential.
        let many = Pattern::parse(&"*a".repeat(40)).unwrap();
        assert!(!many.matches(&"a".repeat(39)));
    }

    #[test]
    fn directories_are_passed_that_cannot_have_files() {
        let pattern = Pattern::parse("trials/*/year=*/*.parquet").unwrap();
        for (directory, expected) in
            [("", true), ("trials", true), ("other", false), ("trials/a/year=1", true), ("trials/a/x", false)]
        {
            assert_eq!(pattern.may_be_below(directory), expected, "{directory}");
        }
        assert_eq!(pattern.fixed_directory(), "trials");
        assert_eq!(Pattern::exactly("a/b.csv").fixed_directory(), "a");
        assert!(!Pattern::exactly("a/b.csv").may_be_below("a/b.csv"));
        assert!(Pattern::below("a").may_be_below("a/b/c"));
    }

    #[test]
    fn patterns_stay_below_the_root() {
        for text in ["../a", "a/../b", "/etc/passwd", "./a"] {
            assert_eq!(Pattern::parse(text), Err(PatternError::LeavesRoot), "{text}");
        }
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert_eq!(Pattern::parse(&"a/".repeat(40)), Err(PatternError::Empty));
    }

    #[test]
    fn columns_are_in_the_names_of_directories() {
        let of = |path| partitions(path).into_iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>();
        assert_eq!(of("x/year=2024/site=A%2FB/f=1.csv"), ["year=Some(\"2024\")", "site=Some(\"A/B\")"]);
        assert_eq!(of("site=__HIVE_DEFAULT_PARTITION__/a"), ["site=None"]);
        assert_eq!(of("site=%zz%f/a"), ["site=Some(\"%zz%f\")"]);
    }
}
