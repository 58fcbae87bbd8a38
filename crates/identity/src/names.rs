//! Text that comes from the cluster, made fit to be shown: names of topics, groups and clients, configs, notes.
//!
//! Such text is whatever some client sent. It stays data: control characters, line breaks and characters that change the
//! direction or the visibility of text are spelled out (`\u{202e}`), and what is longer than a name should be is cut. A name
//! that was changed is still unique and is accepted as an argument, so that an agent can ask on with what it was shown.

use std::borrow::Cow;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The longest name that is shown whole. The longest topic name has 249 bytes.
const MAX_NAME_CHARS: usize = 249;
const KEPT_NAME_CHARS: usize = 80;

/// A topic, group or client id as it is shown.
pub fn shown(name: &str) -> Cow<'_, str> {
    let long = name.len() > MAX_NAME_CHARS && name.chars().count() > MAX_NAME_CHARS;
    if !long {
        return visible(name);
    }
    let kept: String = name.chars().take(KEPT_NAME_CHARS).collect();
    let digest = Sha256::digest(name.as_bytes());
    let mut cut = visible(&kept).into_owned();
    cut.push('…');
    // Eight bytes tell apart what begins alike.
    for byte in digest.iter().take(8) {
        let _ = write!(cut, "{byte:02x}");
    }
    Cow::Owned(cut)
}

/// Free text as it is shown, cut after `max_chars`.
pub fn text(value: &str, max_chars: usize) -> String {
    let mut kept: String = visible(&value.chars().take(max_chars).collect::<String>()).into_owned();
    let cut = value.chars().count().saturating_sub(max_chars);
    if cut > 0 {
        let _ = write!(kept, "… ({cut} more characters)");
    }
    kept
}

/// Whether an argument means this name.
pub fn means(argument: &str, name: &str) -> bool {
    argument == name || argument == shown(name)
}

/// Finds what an argument names: exactly, else as it was shown.
pub fn find<'a, V>(
    map: &'a std::collections::BTreeMap<String, V>,
    argument: &str,
) -> Option<(&'a String, &'a V)> {
    map.get_key_value(argument).or_else(|| {
        let changed = argument.contains(['\\', '…']);
        changed.then(|| map.iter().find(|(name, _)| shown(name) == argument)).flatten()
    })
}

fn visible(name: &str) -> Cow<'_, str> {
    if !name.chars().any(is_hidden) {
        return Cow::Borrowed(name);
    }
    let mut shown = String::with_capacity(name.len() + 16);
    for c in name.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Controls, and the format characters of Unicode that hide or reorder text or carry hidden messages.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn ordinary_names_are_shown_as_they_are() {
        for name in ["orders", "a.b_c-9", "grüße", "日本", "with space", ""] {
            assert!(matches!(shown(name), Cow::Borrowed(same) if same == name));
        }
    }

    #[test]
    fn what_hides_or_breaks_lines_is_spelled_out_and_still_found() {
        let nasty = "a\nb\u{202e}c\u{e0041}\x1b[31m";
        let seen = shown(nasty).into_owned();
        assert_eq!(seen, "a\\u{a}b\\u{202e}c\\u{e0041}\\u{1b}[31m");
        let map = BTreeMap::from([(nasty.to_owned(), 1), ("plain".to_owned(), 2)]);
        assert_eq!(find(&map, &seen).map(|(_, v)| *v), Some(1));
        assert_eq!(find(&map, nasty).map(|(_, v)| *v), Some(1));
        assert_eq!(find(&map, "plai"), None);
        assert!(means(&seen, nasty) && !means("a", nasty));
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (a, b) = (format!("{}a", "x".repeat(30_000)), format!("{}b", "x".repeat(30_000)));
        let (shown_a, shown_b) = (shown(&a), shown(&b));
        assert!(shown_a.chars().count() < 100 && shown_a != shown_b);
        let map = BTreeMap::from([(a.clone(), 1), (b.clone(), 2)]);
        assert_eq!(find(&map, &shown_b).map(|(_, v)| *v), Some(2));
    }

    #[test]
    fn free_text_is_cut() {
        assert_eq!(text("abc", 3), "abc");
        assert_eq!(text("ab\ncdef", 3), "ab\\u{a}… (4 more characters)");
    }
}
