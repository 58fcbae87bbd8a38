//! Words of commands that messages print, so that a shell reads them as they are meant.

/// A word as a POSIX shell takes it: in single quotes, unless every character of it stands for itself.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_more_into_them() {
        for (word, expected) in [
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("", "''"),
            ("two words", "'two words'"),
            ("$HOME;`x`\"", "'$HOME;`x`\"'"),
            ("it's", r"'it'\''s'"),
            ("~user", "'~user'"),
            ("Äpfel", "'Äpfel'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
