//! Which coordinator slot a group belongs to: as in Apache Kafka, by Java's hash of the group id, so that tools which
//! compute it come to the same answer.

/// The slot of a group, of `slots` many (`GroupCoordinatorService.partitionFor`).
pub fn slot_of(group: &str, slots: i32) -> i32 {
    // Java hashes the UTF-16 units of a string, in 32 bits that wrap around.
    let hash =
        group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // `Utils.abs`: what has no positive counterpart counts as 0.
    hash.checked_abs().unwrap_or(0) % slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_apache_kafka() {
        // By java.lang.String.hashCode of OpenJDK.
        let cases = [
            ("", 0),
            ("a", 97),
            ("orders", -1_008_770_331),
            ("polygenelubricants", i32::MIN),
            ("ü😀", 2_015_071),
        ];
        for (group, hash) in cases {
            let expected = if hash == i32::MIN { 0 } else { hash.abs() % 50 };
            assert_eq!(slot_of(group, 50), expected, "{group}");
        }
    }
}
