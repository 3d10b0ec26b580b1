//! Moments as RFC 3339 text in UTC with six digits of a second: always of one length, so that they
//! sort as text.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Deserializer, Serializer};

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// The moment as text, cut to microseconds.
pub fn to_text(moment: Timestamp) -> String {
    PRINTER.timestamp_to_string(&moment)
}

/// The moment that a text names.
///
/// # Errors
/// When it names none.
pub fn from_text(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse()
}

pub(in crate::audit::entry) fn serialize<S: Serializer>(
    moment: &Timestamp,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_text(*moment))
}

pub(in crate::audit::entry) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    from_text(&text).map_err(serde::de::Error::custom)
}

/// A moment that there may not be; nothing is written where there is none.
pub(super) mod optional {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde gives a reference")]
    pub(in crate::audit::entry) fn serialize<S: Serializer>(
        moment: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match moment {
            Some(moment) => super::serialize(moment, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::audit::entry) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let moment = text.map(|text| super::from_text(&text));
        moment.transpose().map_err(serde::de::Error::custom)
    }
}
