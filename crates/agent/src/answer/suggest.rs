//! "Did you mean …?": the known name that is closest to a misspelt one.

/// Longer arguments are not compared.
const MAX_CHARS: usize = 256;
/// More names are not compared: the answer must come in time.
const MAX_NAMES: usize = 20_000;

/// The closest of `names`, if one is close.
pub fn closest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given: Vec<char> = given.chars().take(MAX_CHARS).flat_map(char::to_lowercase).collect();
    // A third of the letters may be wrong, and at least one.
    let tolerance = (given.len() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for name in names.into_iter().take(MAX_NAMES) {
        let distance = distance(&given, name, best.map_or(tolerance, |(d, _)| d.saturating_sub(1)));
        if let Some(distance) = distance {
            best = Some((distance, name));
            if distance == 0 {
                break;
            }
        }
    }
    best.map(|(_, name)| name)
}

/// The name that `given` is the beginning of, or the closest one.
fn completed<'a>(given: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let begins = |name: &&str| given.len() >= 3 && name.starts_with(given);
    closest(given, names.clone()).or_else(|| names.into_iter().find(begins))
}

/// `: did you mean "orders"?`, or nothing.
pub fn did_you_mean<'a>(given: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    completed(given, names)
        .map(|name| format!(": did you mean {:?}?", super::names::shown(name)))
        .unwrap_or_default()
}

/// Optimal string alignment distance (insertion, deletion, substitution, swap of neighbours), if at most `limit`.
fn distance(given: &[char], name: &str, limit: usize) -> Option<usize> {
    let name: Vec<char> = name.chars().take(MAX_CHARS).flat_map(char::to_lowercase).collect();
    if given.len().abs_diff(name.len()) > limit {
        return None;
    }
    let width = name.len() + 1;
    let (mut before, mut last, mut row) = (vec![0; width], (0..width).collect::<Vec<_>>(), vec![0; width]);
    for (i, a) in given.iter().enumerate() {
        row[0] = i + 1;
        for (j, b) in name.iter().enumerate() {
            let substituted = last[j] + usize::from(a != b);
            row[j + 1] = substituted.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == name[j - 1] && given[i - 1] == *b {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        if row.iter().min().is_some_and(|least| *least > limit) {
            return None;
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    let distance = last[name.len()];
    (distance <= limit).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_suggested() {
        let names = ["orders", "payments", "order-returns", "audit"];
        for (given, wanted) in [
            ("order", Some("orders")),
            ("ordres", Some("orders")),
            ("Orders", Some("orders")),
            ("paymnets", Some("payments")),
            ("audti", Some("audit")),
            ("customers", None),
            ("", None),
        ] {
            assert_eq!(closest(given, names), wanted, "{given}");
        }
        assert_eq!(completed("order-ret", names), Some("order-returns"));
        assert_eq!(completed("or", names), None);
        assert_eq!(did_you_mean("ordrs", names), ": did you mean \"orders\"?");
    }
}
