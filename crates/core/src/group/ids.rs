//! The names of a group's parts: members, static instances, generations, and the tokens of waiting requests.

use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> $name {
                $name(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id! {
    /// `member.id`, given by the coordinator. The empty one stands for "not known yet".
    MemberId
}
text_id! {
    /// `group.instance.id` of a static member (KIP-345), given by the user.
    InstanceId
}

impl MemberId {
    /// What a client sends that has no member id yet.
    pub fn unknown() -> MemberId {
        MemberId::from("")
    }

    pub fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }
}

/// Counts the rebalances of a group. A request of another generation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i32);

impl Generation {
    /// What a client sends that is not a member: a simple consumer or an admin tool.
    pub const NONE: Generation = Generation(-1);

    pub(super) fn next(self) -> Generation {
        // Wraps to zero rather than to a negative number, which would mean "not a member".
        Generation(self.0.checked_add(1).unwrap_or(0))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a request that waits for its answer. The driver gives it; every token is answered exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Identifies a write that the group asked for, in the order in which it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);
