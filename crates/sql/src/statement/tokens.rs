//! A statement as the engine's tokenizer sees it, white space and comments included, so that what is not touched stays as it is.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::SqlError;

/// Longer texts are refused before anything is made of them.
const TEXT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    pub all: Vec<Token>,
}

impl Tokens {
    pub fn of(text: &str) -> Result<Tokens, SqlError> {
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            return Err(SqlError::TooComplex(format!(
                "the text has {bytes} bytes, and {TEXT_BYTES_MAX} are the most; give large values as parameters"
            )));
        }
        // Escapes stay as they are written, since the text is put together again.
        let all = tokenized(text)?;
        // E'…' is the exception: what it stands for is written without escapes.
        let plain = |token| match token {
            Token::EscapedStringLiteral(text) => Token::SingleQuotedString(text.replace('\'', "''")),
            other => other,
        };
        let mut tokens = Vec::with_capacity(all.len());
        for token in all {
            match apart(&token) {
                Some(parts) => tokens.extend(tokenized(&parts)?),
                None => tokens.push(plain(token)),
            }
        }
        Ok(Tokens { all: tokens })
    }

    /// At semicolons; without statements that say nothing.
    pub fn split(self) -> Vec<Tokens> {
        let statements = self.all.split(|token| *token == Token::SemiColon);
        let statements = statements.map(|tokens| Tokens { all: tokens.to_vec() }.trimmed());
        statements.filter(|tokens| !tokens.all.is_empty()).collect()
    }

    pub fn ends_with_semicolon(&self) -> bool {
        self.all.iter().rfind(|token| is_significant(token)) == Some(&Token::SemiColon)
    }

    /// Without white space and comments before it. Statements of these only are empty.
    fn trimmed(self) -> Tokens {
        let from = self.all.iter().position(is_significant).unwrap_or(self.all.len());
        Tokens { all: self.all[from..].to_vec() }
    }

    /// The places of what is neither white space nor comment.
    pub fn significant(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|at| is_significant(&self.all[*at])).collect()
    }

    /// Whether the token there is this word, without quotes.
    pub fn is(&self, at: usize, word: &str) -> bool {
        matches!(&self.all[at], Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// What is neither white space nor comment; words that are not quoted in capitals.
    pub fn words(&self) -> Vec<String> {
        self.significant().into_iter().map(|at| self.word(at)).collect()
    }

    pub fn word(&self, at: usize) -> String {
        match &self.all[at] {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_uppercase(),
            other => other.to_string(),
        }
    }

    /// Behind so many words.
    pub fn behind_words(&self, word: usize) -> Tokens {
        let from = self.significant().get(word).copied().unwrap_or(self.all.len());
        Tokens { all: self.all[from..].to_vec() }
    }

    /// The name of a topic that stands behind so many words, and nothing behind it. As in SQL, what is not quoted is in small letters.
    pub fn name_after(&self, word: usize) -> Result<String, SqlError> {
        let rest = self.behind_words(word);
        let mut name = String::new();
        for at in rest.significant() {
            match &rest.all[at] {
                Token::Word(part) if part.quote_style.is_some() => name.push_str(&part.value),
                Token::SingleQuotedString(text) => name.push_str(text),
                other => name.push_str(&other.to_string().to_lowercase()),
            }
        }
        match name.is_empty() {
            true => Err(SqlError::Syntax("the name of a topic is missing".to_owned())),
            false => Ok(name.strip_prefix("public.").map(str::to_owned).unwrap_or(name)),
        }
    }

    pub fn text(&self) -> String {
        self.all.iter().map(Token::to_string).collect()
    }
}

fn tokenized(text: &str) -> Result<Vec<Token>, SqlError> {
    let tokenized = Tokenizer::new(&PostgreSqlDialect {}, text).with_unescape(false).tokenize();
    tokenized.map_err(|e| SqlError::Syntax(e.to_string()))
}

/// An operator and the signs behind it (`n >-1`), with spaces between. By PostgreSQL's rule (lexical structure, operators)
/// one of several characters ends in a sign only where it has others than those of standard SQL.
fn apart(token: &Token) -> Option<String> {
    let Token::CustomBinaryOperator(operator) = token else { return None };
    let is_of_postgresql = operator.contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?']);
    let plain = operator.trim_end_matches(['+', '-']);
    // The first character is an operator, whichever it is.
    let first = operator.chars().next()?.len_utf8();
    let plain = if plain.is_empty() { &operator[..first] } else { plain };
    let signs = &operator[plain.len()..];
    if is_of_postgresql || signs.is_empty() || signs.contains("--") {
        return None;
    }
    Some(signs.chars().fold(plain.to_owned(), |text, sign| format!("{text} {sign}")))
}

fn is_significant(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_behind_operators_are_signs() {
        for (text, expected) in [
            ("n>-10", "n> -10"),
            ("n>=-1 AND n<>-1", "n>= -1 AND n<> -1"),
            ("a->-1, a->>-1", "a-> -1, a->> -1"),
            ("3-+1, 3+-1", "3- +1, 3+-1"),
            // Those of PostgreSQL may end in a sign, and comments are none.
            ("a #- b, a ?-b", "a #- b, a ?-b"),
            ("a -- >-1", "a -- >-1"),
            ("'>-1'", "'>-1'"),
        ] {
            assert_eq!(Tokens::of(text).unwrap().text(), expected, "{text}");
        }
    }
}
