//! Words of the audit log that are the same in the ledger's columns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rule;

/// A closed set of words, the same in the audit log and in the ledger's columns.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// What the word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What was done to records.
    ActionKind {
        /// They were deleted.
        Delete = "delete",
        /// Columns of theirs were changed.
        Anonymize = "anonymize",
    }
}

impl From<&rule::Action> for ActionKind {
    fn from(action: &rule::Action) -> Self {
        match action {
            rule::Action::Delete => ActionKind::Delete,
            rule::Action::Anonymize(_) => ActionKind::Anonymize,
        }
    }
}

words! {
    /// Whether a run may change anything.
    RunMode {
        /// It only counts.
        Observe = "observe",
        /// It deletes or anonymizes.
        Enforce = "enforce",
    }
}

impl From<rule::Mode> for RunMode {
    fn from(mode: rule::Mode) -> Self {
        match mode {
            rule::Mode::Observe => RunMode::Observe,
            rule::Mode::Enforce => RunMode::Enforce,
        }
    }
}

words! {
    /// What a legal hold covers.
    HoldScope {
        /// Whatever is about certain persons.
        Subjects = "subjects",
        /// Whatever a rule would take.
        Rule = "rule",
        /// Records of a table that meet a predicate.
        Table = "table",
        /// Everything in a store.
        Store = "store",
    }
}

words! {
    /// Why a rule runs.
    Cause {
        /// Its schedule.
        Slot = "slot",
        /// Somebody's command.
        Command = "command",
        /// It runs whenever something falls due.
        Continuous = "continuous",
        /// An earlier run was interrupted.
        Restart = "restart",
        /// An application said that something is over.
        Event = "event",
        /// What a restored backup brought back goes again.
        Replay = "replay",
    }
}

words! {
    /// How a run ended.
    RunEnd {
        /// All that was due is gone.
        Done = "done",
        /// It was stopped between batches.
        Stopped = "stopped",
        /// An error ended it.
        Failed = "failed",
    }
}
