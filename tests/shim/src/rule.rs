//! One line of the control file.

use std::time::Duration;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_FLAGS, CK_RV};

use crate::calls::Function;
use crate::names;

/// A rule and how often it matched.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its line, and which of the equal lines it is: by these it keeps its counts when the file is read again.
    pub text: String,
    pub nth: usize,
    target: Target,
    pub wait: Option<Duration>,
    pub hang: bool,
    pub act: Option<Act>,
    pub late: bool,
    pub note: bool,
    query: bool,
    once: Option<String>,
    times: Option<u64>,
    after: u64,
    every: u64,
    seen: u64,
    fired: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    All,
    Prefix(String),
    One(Function),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Return(CK_RV),
    Crash,
    Die(i32),
    Corrupt { at: Option<usize>, attribute: Option<CK_ATTRIBUTE_TYPE> },
    Empty,
    Limit(usize),
    Stuck,
    Flags { set: CK_FLAGS, clear: CK_FLAGS },
}

impl Rule {
    /// A line of the file; none for an empty one.
    pub fn parse(line: &str) -> Result<Option<Self>, String> {
        let text = line.split('#').next().unwrap_or_default().trim();
        let mut words = text.split_whitespace().peekable();
        let Some(&first) = words.peek() else { return Ok(None) };
        let mut rule = Self {
            text: text.to_owned(),
            nth: 0,
            target: Target::All,
            wait: None,
            hang: false,
            act: None,
            late: false,
            note: false,
            query: false,
            once: None,
            times: None,
            after: 0,
            every: 1,
            seen: 0,
            fired: 0,
        };
        if first == "*" || first.starts_with("C_") {
            rule.target = Target::parse(first)?;
            words.next();
        } else if first.split('=').next() != Some("die") {
            return Err(format!("no function {first}"));
        }
        let mut attribute = None;
        for word in words {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            let act = match (key, value) {
                ("rv", Some(value)) => Act::Return(named(value, names::CODES)?),
                ("crash", None) => Act::Crash,
                ("die", None) => Act::Die(1),
                ("die", Some(value)) => Act::Die(fits(value)?),
                ("corrupt", None) => Act::Corrupt { at: None, attribute: None },
                ("corrupt", Some(value)) => Act::Corrupt { at: Some(fits(value)?), attribute: None },
                ("empty", None) => Act::Empty,
                ("limit", Some(value)) => Act::Limit(fits(value)?),
                ("stuck", None) => Act::Stuck,
                ("flags", Some(value)) => flags(value)?,
                (other, value) => {
                    rule.condition(other, value, &mut attribute)?;
                    continue;
                }
            };
            if rule.act.replace(act).is_some() {
                return Err("two faults in one rule".to_owned());
            }
        }
        if let Some(Act::Corrupt { attribute: of, .. }) = &mut rule.act {
            *of = attribute;
        } else if attribute.is_some() {
            return Err("attr without corrupt".to_owned());
        }
        rule.check()?;
        Ok(Some(rule))
    }

    fn condition(
        &mut self,
        key: &str,
        value: Option<&str>,
        attribute: &mut Option<CK_ATTRIBUTE_TYPE>,
    ) -> Result<(), String> {
        match (key, value) {
            ("delay_ms", Some(value)) => self.wait = Some(Duration::from_millis(number(value)?)),
            ("hang", None) => self.hang = true,
            ("late", None) => self.late = true,
            ("note", None) => self.note = true,
            ("query", None) => self.query = true,
            ("once", Some(name)) if name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty() => {
                self.once = Some(name.to_owned());
            }
            ("times", Some(value)) => self.times = Some(number(value)?),
            ("after", Some(value)) => self.after = number(value)?,
            ("every", Some(value)) => self.every = number(value)?.max(1),
            ("attr", Some(value)) => *attribute = Some(number(value)?),
            ("id", Some(_)) => {}
            (key, _) => return Err(format!("no fault {key}, or it lacks or does not take a value")),
        }
        Ok(())
    }

    /// Refuses what would never fire.
    fn check(&self) -> Result<(), String> {
        let only = |kinds: &[&str], what: &str| match &self.target {
            Target::One(one) if !kinds.iter().any(|kind| one.gives().starts_with(kind)) => {
                Err(format!("{what} is not for {}", one.name()))
            }
            Target::One(_) => Ok(()),
            Target::All | Target::Prefix(_) => Err(format!("{what} needs the name of one function")),
        };
        match self.act {
            Some(Act::Limit(_)) => only(&["Out::Session"], "limit")?,
            Some(Act::Empty) => only(&["Out::Count", "Out::Buffer"], "empty")?,
            Some(Act::Corrupt { .. }) => only(&["Out::Buffer", "Out::Bytes", "Out::Template"], "corrupt")?,
            Some(Act::Flags { .. }) => only(&["flags_of!"], "flags")?,
            _ if self.once.is_some() && self.times.is_some() => {
                return Err("once and times in one rule".to_owned());
            }
            None if self.wait.is_none() && !self.hang && !self.note => {
                return Err("no fault in the rule".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes over the counts of the same line in the last version of the file.
    pub fn resume(&mut self, old: &Self) {
        (self.seen, self.fired) = (old.seen, old.fired);
    }

    /// Whether the rule is about this call at all. A length query is a call of its own.
    pub fn about(&self, function: Function, query: bool) -> bool {
        self.query == query
            && match &self.target {
                Target::All => true,
                Target::Prefix(prefix) => function.name().starts_with(prefix.as_str()),
                Target::One(one) => *one == function,
            }
    }

    /// Counts a call that the rule is about, and says whether the fault happens in it.
    ///
    /// `first` says whether this process is the first to take the name of a rule with `once`.
    pub fn fires(&mut self, first: impl Fn(&str) -> bool) -> bool {
        if self.spent() {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        let Some(past) = self.seen.checked_sub(self.after).filter(|past| *past > 0) else { return false };
        if past.checked_rem(self.every) != Some(0) {
            return false;
        }
        let fires = self.once.as_deref().is_none_or(first);
        self.fired = self.fired.saturating_add(1);
        fires
    }

    pub fn spent(&self) -> bool {
        let times = if self.once.is_some() { Some(1) } else { self.times };
        times.is_some_and(|times| self.fired >= times)
    }
}

impl Target {
    fn parse(word: &str) -> Result<Self, String> {
        if word == "*" {
            return Ok(Self::All);
        }
        let known = |name: &str| Function::ALL.iter().any(|function| function.name().starts_with(name));
        match word.strip_suffix('*') {
            Some(prefix) if known(prefix) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Function::ALL
                .iter()
                .find(|function| function.name() == word)
                .map(|function| Self::One(*function))
                .ok_or_else(|| format!("no function {word}")),
        }
    }
}

/// `+0x20000,-CKF_TOKEN_PRESENT`
fn flags(value: &str) -> Result<Act, String> {
    let (mut set, mut clear) = (0, 0);
    for part in value.split(',') {
        if let Some(bits) = part.strip_prefix('+') {
            set |= named(bits, names::FLAGS)?;
        } else if let Some(bits) = part.strip_prefix('-') {
            clear |= named(bits, names::FLAGS)?;
        } else {
            return Err(format!("flags start with + or -: {part}"));
        }
    }
    Ok(Act::Flags { set, clear })
}

fn named(value: &str, names: &[(&str, u64)]) -> Result<u64, String> {
    names.iter().find(|(name, _)| *name == value).map_or_else(|| number(value), |(_, number)| Ok(*number))
}

fn number(value: &str) -> Result<u64, String> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| format!("no number: {value}"))
}

fn fits<T: TryFrom<u64>>(value: &str) -> Result<T, String> {
    T::try_from(number(value)?).map_err(|_| format!("too large: {value}"))
}
