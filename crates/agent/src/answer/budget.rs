//! Keeps every answer below a number of tokens, whatever the cluster holds: rows are taken until the budget is spent, the
//! rest comes with the next cursor.

use serde::Serialize;

/// No answer is larger than 8,000 tokens. The estimate errs on the high side; this leaves room for what is not rows.
const ROWS_BUDGET_TOKENS: usize = 6_500;

/// What is left for rows.
#[derive(Debug)]
pub struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: ROWS_BUDGET_TOKENS }
    }
}

impl Budget {
    /// Takes room for a part of the answer. False: there is none, stop here.
    pub fn take(&mut self, part: &impl Serialize) -> bool {
        let Ok(text) = serde_json::to_string(part) else { return false };
        match self.left.checked_sub(tokens(&text) + 1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// An upper estimate of the tokens of a text in the o200k encoding: runs of letters make about one per three, digits one
/// per three, signs up to one each, and other scripts up to one per byte.
pub fn tokens(text: &str) -> usize {
    let mut tokens = 0;
    let (mut letters, mut digits) = (0_usize, 0_usize);
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' => {
                tokens += std::mem::take(&mut digits).div_ceil(3);
                letters += 1;
            }
            '0'..='9' => {
                tokens += std::mem::take(&mut letters).div_ceil(3);
                digits += 1;
            }
            other => {
                tokens += std::mem::take(&mut letters).div_ceil(3) + std::mem::take(&mut digits).div_ceil(3);
                tokens += if other == ' ' { 0 } else { other.len_utf8() };
            }
        }
    }
    tokens + letters.div_ceil(3) + digits.div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_not_below_what_the_encoding_makes() {
        // Counted with o200k_base.
        for (text, counted) in [
            ("orders", 1),
            (r#"["orders",3,120034,120000,34,"billing-1"]"#, 21),
            (r#"{"observed_at":"2026-11-22T09:06:57Z","rows":[]}"#, 24),
        ] {
            assert!(tokens(text) >= counted, "{text}: {} < {counted}", tokens(text));
        }
    }

    #[test]
    fn rows_are_taken_until_the_budget_is_spent() {
        let mut budget = Budget::default();
        let taken = (0..100_000).take_while(|i| budget.take(&("orders", i, 1_234_567, 1_234_000))).count();
        assert!((100..1000).contains(&taken), "{taken}");
    }
}
