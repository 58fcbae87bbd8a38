//! Where a page ended, as an opaque text that the agent gives back. It holds the place itself and no reference to anything
//! kept here, so that it never expires; a cursor of another tool or of other arguments is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::ToolError;

/// Longer than any cursor that was given out: names are at most 32 KiB.
const MAX_CURSOR_BYTES: usize = 64 << 10;

/// What a cursor belongs to: the tool and the arguments that choose and order rows.
#[derive(Clone, Copy, Debug)]
pub struct Scope([u8; 4]);

impl Scope {
    pub fn new(tool: &str, arguments: &impl Serialize) -> Self {
        let arguments = serde_json::to_string(arguments).unwrap_or_default();
        let digest = Sha256::digest(format!("{tool}\0{arguments}"));
        let mut scope = [0; 4];
        scope.copy_from_slice(&digest[..4]);
        Self(scope)
    }

    /// The cursor for what comes after `place`.
    pub fn after(self, place: &impl Serialize) -> Option<String> {
        let mut bytes = self.0.to_vec();
        serde_json::to_writer(&mut bytes, place).ok()?;
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The place that a cursor of this scope holds.
    pub fn place<P: DeserializeOwned>(self, cursor: Option<&str>) -> Result<Option<P>, ToolError> {
        let Some(cursor) = cursor else { return Ok(None) };
        let decoded =
            if cursor.len() <= MAX_CURSOR_BYTES { URL_SAFE_NO_PAD.decode(cursor).ok() } else { None };
        let place = decoded.as_deref().and_then(|bytes| {
            let (scope, place) = bytes.split_at_checked(self.0.len())?;
            (scope == self.0).then(|| serde_json::from_slice(place).ok())?
        });
        place.map(Some).ok_or_else(|| {
            ToolError::invalid(
                "cursor does not belong to this call: pass next_cursor of the page before unchanged, with the same other \
                 arguments, or leave it out to begin at the start",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let scope = Scope::new("list_topics", &("ord",));
        let cursor = scope.after(&("orders", 3)).unwrap();
        assert_eq!(scope.place::<(String, i32)>(Some(&cursor)), Ok(Some(("orders".to_owned(), 3))));
        assert_eq!(scope.place::<(String, i32)>(None), Ok(None));
    }

    #[test]
    fn foreign_cursors_are_refused() {
        let scope = Scope::new("list_topics", &("ord",));
        let other = Scope::new("list_topics", &("pay",)).after(&("orders", 3)).unwrap();
        for cursor in [other.as_str(), "", "x", "%%%", &"A".repeat(100_000)] {
            assert!(scope.place::<(String, i32)>(Some(cursor)).is_err(), "{cursor:.20}");
        }
    }
}
