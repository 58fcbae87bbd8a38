//! Patterns of `SIMILAR TO` as regular expressions: they are for whole texts, `%` and `_` stand for any letters, and a dot for a dot.

/// The regular expression for a pattern.
pub fn regex_of(pattern: &str, escape: Option<char>) -> String {
    let mut regex = String::from("(?s)^(?:");
    let mut letters = pattern.chars().peekable();
    let (mut in_brackets, mut in_braces) = (false, false);
    while let Some(letter) = letters.next() {
        match letter {
            letter if Some(letter) == escape => {
                if let Some(meant) = letters.next() {
                    push_literal(&mut regex, meant);
                }
            }
            ']' if in_brackets => {
                in_brackets = false;
                regex.push(']');
            }
            '[' if !in_brackets => {
                in_brackets = true;
                regex.push('[');
                if let Some(negated) = letters.next_if_eq(&'^') {
                    regex.push(negated);
                }
                // A bracket that comes first is one of the letters.
                if letters.next_if_eq(&']').is_some() {
                    regex.push_str("\\]");
                }
            }
            '[' if letters.peek() != Some(&':') => regex.push_str("\\["),
            letter if in_brackets => regex.push(letter),
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            '{' | '}' => {
                in_braces = letter == '{';
                regex.push(letter);
            }
            ',' if in_braces => regex.push(letter),
            '|' | '*' | '+' | '?' | '(' | ')' => regex.push(letter),
            letter => push_literal(&mut regex, letter),
        }
    }
    regex.push_str(")$");
    regex
}

fn push_literal(regex: &mut String, letter: char) {
    if letter.is_ascii_punctuation() {
        regex.push('\\');
    }
    regex.push(letter);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_for_whole_texts() {
        // As PostgreSQL 15 answers.
        let cases = [
            ("abc", "a%", true),
            ("abc", "a", false),
            ("a$b", "a$b", true),
            ("abc", "%(b|d)%", true),
            ("abc", "(b|c)%", false),
            ("abc", "a_c", true),
            ("a\nc", "a_c", true),
            ("axc", "a.c", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("aaa", "a{2,3}", true),
            ("x1", "[a-z][0-9]", true),
            ("x^", "x[\\^]", true),
            ("-", "[^a-z]", true),
        ];
        for (text, pattern, expected) in cases {
            let regex = regex::Regex::new(&regex_of(pattern, Some('\\'))).unwrap();
            assert_eq!(regex.is_match(text), expected, "{text} SIMILAR TO {pattern}");
        }
    }
}
