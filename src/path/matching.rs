//! How a template is held against a path: part by part, with all the places at which the next one may begin.
//!
//! What an event names is matched once and forgotten, so nothing is compiled for it. A path is gone through
//! once for each part, whatever stands in it.

use jiff::civil::Date;

use super::{Captures, Part};

/// Places of a path at which a part may begin, or end: each once, and in order.
type Places = Vec<usize>;

/// Whether parts stand for a path, from its first byte to its last.
pub(super) fn means(parts: &[Part], path: &[u8]) -> bool {
    // How it ends is looked at first: most paths that are not meant end otherwise.
    let (rest, path) = match parts {
        [rest @ .., Part::Literal(end)] => match path.strip_suffix(end.as_slice()) {
            Some(path) => (rest, path),
            None => return false,
        },
        _ => (parts, path),
    };
    let (rest, is_any) = match rest {
        [rest @ .., Part::Any] => (rest, true),
        _ => (rest, false),
    };
    let mut places = vec![0];
    for (part, is_last) in with_last(parts).take(rest.len()) {
        step(&mut places, part, is_last, path);
    }
    let reached = |last: &usize| if is_any { end_of_name(path, *last) } else { *last };
    places.last().map(reached) == Some(path.len())
}

/// What a path says in place of the date, and of the placeholder `name`. Neither could be read in another
/// way: a template for which that is not so is refused.
pub(super) fn read(parts: &[Part], path: &[u8], name: Option<&str>) -> Option<Captures> {
    let mut begins = Vec::with_capacity(parts.len());
    let mut places = vec![0];
    for (part, is_last) in with_last(parts) {
        begins.push(places.clone());
        step(&mut places, part, is_last, path);
    }
    let mut end = path.len();
    if places.last() != Some(&end) {
        return None;
    }
    // Of the places that were reached, those from which the end is reached, too.
    let mut captures = Captures::default();
    for ((part, is_last), places) in with_last(parts).zip(begins).rev() {
        let leads_there = |begin: &usize| {
            let mut ends = vec![*begin];
            step(&mut ends, part, is_last, path);
            ends.binary_search(&end).is_ok()
        };
        let begin = places.into_iter().find(leads_there)?;
        let found = &path[begin..end];
        match part {
            Part::Placeholder(known) if Some(known.as_str()) == name => {
                captures.value = Some(found.to_vec());
            }
            Part::Date(format) => captures.day = day(format.as_bytes(), found),
            _ => {}
        }
        end = begin;
    }
    Some(captures)
}

/// Whether a path that parts stand for can lie below a folder, which is not the root.
pub(super) fn enters(parts: &[Part], folder: &[u8]) -> bool {
    // So many slashes of the template are gone through with the folder, the last of them behind it.
    let mut left = 1 + slashes(folder).count();
    let mut places = vec![0];
    for part in parts {
        let fixed = match part {
            Part::Literal(bytes) => bytes.as_slice(),
            Part::Date(format) => format.as_bytes(),
            // From here on there may be any folder.
            Part::Deep => return !places.is_empty(),
            Part::One | Part::Any | Part::Placeholder(_) => {
                step(&mut places, part, false, folder);
                continue;
            }
        };
        if let Some(slash) = slashes(fixed).nth(left - 1) {
            fixed_step(&mut places, part, &fixed[..slash], folder);
            return places.last() == Some(&folder.len());
        }
        left -= slashes(fixed).count();
        fixed_step(&mut places, part, fixed, folder);
    }
    false
}

/// Where the slashes of some bytes stand.
fn slashes(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(place, _)| place)
}

/// Parts, each with whether it is the last one.
fn with_last(parts: &[Part]) -> impl DoubleEndedIterator<Item = (&Part, bool)> + ExactSizeIterator {
    parts.iter().enumerate().map(|(place, part)| (part, place + 1 == parts.len()))
}

/// From the places at which a part may begin to those at which it may end.
fn step(places: &mut Places, part: &Part, is_last: bool, path: &[u8]) {
    match part {
        Part::Literal(bytes) => fixed_step(places, part, bytes, path),
        Part::Date(format) => fixed_step(places, part, format.as_bytes(), path),
        Part::One => {
            let is_there = |at: usize| path.get(at).is_some_and(|byte| *byte != b'/');
            advance(places, |at| is_there(at).then_some(1));
        }
        Part::Any => within_a_name(places, 0, path),
        Part::Placeholder(_) => within_a_name(places, 1, path),
        Part::Deep => {
            through_names(places, path);
            // At the end it stands for one name at least.
            if is_last {
                within_a_name(places, 1, path);
            }
        }
    }
}

/// The same for a literal or a date, or for the beginning of one.
fn fixed_step(places: &mut Places, part: &Part, fixed: &[u8], path: &[u8]) {
    let is_date = matches!(part, Part::Date(_));
    advance(places, |at| {
        let rest = &path[at..];
        if is_date {
            numbers(fixed, rest).map(|(_, length)| length)
        } else {
            rest.starts_with(fixed).then_some(fixed.len())
        }
    });
}

/// Goes on by as much as there is at each place, which is the same for all; those without fall away.
fn advance(places: &mut Places, length: impl Fn(usize) -> Option<usize>) {
    places.retain_mut(|place| {
        let found = length(*place);
        *place += found.unwrap_or_default();
        found.is_some()
    });
}

/// Goes on by any number of bytes of a name, but by so many at least.
fn within_a_name(places: &mut Places, least: usize, path: &[u8]) {
    let mut ends = Places::new();
    // Where the name ends in which the last place was.
    let mut name = None;
    for place in places.iter().copied() {
        let end =
            *name.take_if(|end| place <= *end).get_or_insert_with(|| end_of_name(path, place));
        name = Some(end);
        // What lies before was reached from the place before.
        let first = ends.last().map_or(0, |last| last + 1).max(place + least);
        ends.extend(first..=end);
    }
    *places = ends;
}

/// Goes on by any number of whole names, each with its slash. Every place is the beginning of one.
fn through_names(places: &mut Places, path: &[u8]) {
    let mut ends = Places::new();
    for mut place in places.iter().copied() {
        // What lies before was gone through from the place before.
        while ends.last().is_none_or(|last| place > *last) {
            ends.push(place);
            let end = end_of_name(path, place);
            if end == place || end == path.len() {
                break;
            }
            place = end + 1;
        }
    }
    *places = ends;
}

fn end_of_name(path: &[u8], from: usize) -> usize {
    path[from..].iter().position(|byte| *byte == b'/').map_or(path.len(), |length| from + length)
}

/// Year, month and day as they stand at the beginning of some bytes, and how many they take up.
fn numbers(format: &[u8], bytes: &[u8]) -> Option<([i16; 3], usize)> {
    let (mut found, mut rest) = ([0; 3], bytes);
    let mut format = format.iter();
    while let Some(byte) = format.next() {
        if *byte != b'%' {
            rest = rest.strip_prefix(&[*byte])?;
            continue;
        }
        let (unit, digits) = match format.next()? {
            b'Y' => (0, 4),
            b'm' => (1, 2),
            _ => (2, 2),
        };
        let (number, after) = rest.split_at_checked(digits)?;
        for digit in number {
            let digit = digit.is_ascii_digit().then(|| i16::from(digit - b'0'))?;
            found[unit] = found[unit] * 10 + digit;
        }
        rest = after;
    }
    Some((found, bytes.len() - rest.len()))
}

/// The day that stands there; none where it is no day of the calendar.
fn day(format: &[u8], bytes: &[u8]) -> Option<Date> {
    let ([year, month, day], _) = numbers(format, bytes)?;
    Date::new(year, month.try_into().ok()?, day.try_into().ok()?).ok()
}
