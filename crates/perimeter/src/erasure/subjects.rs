//! Identifiers of a subject as somebody gives them: from standard input, a file or a variable, and not among arguments, which other
//! users of the machine and the shell's history have.

use std::io::Read as _;
use std::path::Path;

use kafscale_meta::files::read_small_text;
use kafscale_settings::failure::Failure;

use crate::rules::folded;

const BYTES_MAX: u64 = 64 << 10;
const LINES_MAX: usize = 100;
const VALUE_BYTES_MAX: usize = 1_000;

/// The identifiers with their labels, of which the first is that of a line that names none.
pub fn given(source: &str, labels: &[String]) -> Result<Vec<(String, String)>, Failure> {
    // Neither the source nor its text is said again: either may have the identifier in it.
    let unread = |e: &dyn std::fmt::Display| Failure::usage(format!("what --subject names: {e}"));
    let text = match (source, source.split_once(':')) {
        ("-", _) => {
            let mut text = String::new();
            std::io::stdin().take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| unread(&e))?;
            text
        }
        (_, Some(("file", path))) => read_small_text(Path::new(path), BYTES_MAX).map_err(|e| unread(&e))?,
        (_, Some(("env", name))) => {
            let value = std::env::var_os(name).ok_or_else(|| unread(&"there is no such variable"))?;
            value.into_string().map_err(|_| unread(&"it is not UTF-8"))?
        }
        _ => {
            return Err(Failure::usage(
                "--subject says where the identifier is, and is not the identifier, which other users of this machine would see: `-` for \
                 standard input, file:PATH, or env:NAME",
            ));
        }
    };
    if text.len() as u64 > BYTES_MAX {
        return Err(unread(&format!("more than {BYTES_MAX} bytes")));
    }
    parse(&text, labels)
}

/// An identifier on each line, or LABEL=identifier.
fn parse(text: &str, labels: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let first = labels.first().ok_or_else(|| Failure::usage("that kind of subject has no labels"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let given: Vec<(String, String)> = lines
        .map(|line| match line.split_once('=') {
            Some((label, value)) if labels.contains(&folded(label.trim())) => {
                (folded(label.trim()), value.trim().to_owned())
            }
            _ => (first.clone(), line.to_owned()),
        })
        .collect();
    match given.as_slice() {
        [] => Err(Failure::usage("there is no identifier in what --subject names")),
        all if all.len() > LINES_MAX => Err(Failure::usage(format!("more than {LINES_MAX} identifiers"))),
        all if all.iter().any(|(_, value)| value.is_empty() || value.len() > VALUE_BYTES_MAX) => {
            Err(Failure::usage(format!("an identifier is empty, or longer than {VALUE_BYTES_MAX} bytes")))
        }
        _ => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_come_with_their_labels_and_never_as_an_argument() {
        let labels = ["subject.patient".to_owned(), "subject.mrn".to_owned()];
        let of = |text: &str| parse(text, &labels);
        let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
        assert_eq!(
            of(" 4711\r\n\nSubject.MRN= M-7\nx=y\n").unwrap(),
            [pair("subject.patient", "4711"), pair("subject.mrn", "M-7"), pair("subject.patient", "x=y")]
        );
        for bad in ["", " \n", "subject.mrn=", &"x".repeat(1_001), &"x\n".repeat(101)] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        std::fs::write(&path, "7\n").unwrap();
        let source = format!("file:{}", path.display());
        assert_eq!(given(&source, &labels).unwrap(), [pair("subject.patient", "7")]);
        for wrong in ["4711", "file:/none/4711", "env:4711", "http://4711"] {
            let error = given(wrong, &labels).unwrap_err();
            assert!(!error.message().contains("4711"), "{}", error.message());
        }
    }
}
