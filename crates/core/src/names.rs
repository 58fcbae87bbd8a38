//! Which topic names and group ids are allowed (`org.apache.kafka.common.internals.Topic`).

/// Longest topic name, in bytes: a directory name of 255 less the partition suffix that Apache Kafka appends.
pub const TOPIC_NAME_MAX_BYTES: usize = 249;

/// Why a topic name is refused; the text is what a user sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    #[error("the empty string is not allowed as a topic name")]
    Empty,
    #[error("'.' and '..' are not allowed as topic names")]
    Dots,
    #[error("a topic name is at most {TOPIC_NAME_MAX_BYTES} characters long, this one has {0}")]
    TooLong(usize),
    #[error("a topic name holds only ASCII letters, digits, '.', '_' and '-'")]
    Characters,
}

/// Checks a topic name by Apache Kafka's rules.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    match name {
        "" => return Err(TopicNameError::Empty),
        "." | ".." => return Err(TopicNameError::Dots),
        _ => {}
    }
    if name.len() > TOPIC_NAME_MAX_BYTES {
        return Err(TopicNameError::TooLong(name.len()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err(TopicNameError::Characters);
    }
    Ok(())
}

/// Two names collide when they differ only in '.' and '_': metric names cannot tell them apart.
pub fn topic_names_collide(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .all(|(x, y)| x == y || (matches!(x, b'.' | b'_') && matches!(y, b'.' | b'_')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_apache_kafka() {
        for good in ["a", "orders", "A.b_c-9", "__consumer_offsets", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ü", "a\0", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn collision_ignores_the_separator() {
        assert!(topic_names_collide("a.b", "a_b"));
        assert!(!topic_names_collide("a.b", "a-b"));
        assert!(!topic_names_collide("a.b", "a.bc"));
    }
}
