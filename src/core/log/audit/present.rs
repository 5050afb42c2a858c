//! Users: whose key it is, and whether they were here.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::super::super::units::Name;
use super::super::super::user::Users;
use super::super::super::user::duties::{self, Acknowledged, Whom};
use super::super::user::UserEvent;
use super::texts::{InForce, Texts};
use super::{Findings, Place, Rule};

/// Who is here.
#[derive(Default)]
pub(super) struct Present {
    /// The document; the empty text is its absence.
    users: InForce<Option<Users>>,
    /// Open sessions, by user and app. A session that another took the place of has no end of its own, so that these
    /// may be too many and never too few.
    sessions: BTreeMap<(String, String), u64>,
    acknowledged: Acknowledged,
}

impl Present {
    pub(super) fn announce(&mut self, place: Place, hash: &str, texts: &mut Texts, found: &mut Findings) {
        self.users.announce(place, hash, || {
            match texts.find(place, "users document", hash, found)?.as_str() {
                "" => Some(None),
                text => match Users::parse(text) {
                    Ok(users) => Some(Some(users)),
                    Err(e) => {
                        let what = format!("this program cannot read the users document {hash}: {e}");
                        found.unproven(Rule::User, place.index, what);
                        None
                    }
                },
            }
        });
    }

    /// A start: nobody is here, and the document is announced anew.
    pub(super) fn forget(&mut self) {
        self.users.forget();
        self.sessions.clear();
    }

    pub(super) fn hear(&mut self, event: UserEvent) {
        self.acknowledged.hear(&event);
        match event {
            UserEvent::Opened { user, app, .. } => {
                let open = self.sessions.entry((user, app)).or_default();
                *open = open.saturating_add(1);
            }
            UserEvent::Closed { user, app, .. } => {
                if let Some(open) = self.sessions.get_mut(&(user, app)) {
                    *open = open.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    /// What those who used a key answer for was acknowledged before. `app` is what the log calls it then, by each uid that
    /// it is registered for.
    // [clause 8.8-d] held against the text in force, which stands in the log
    pub(super) fn answers(
        &self,
        place: Place,
        app: &[String],
        user: Option<&str>,
        policy: &str,
        found: &mut Findings,
    ) {
        let good = |users: &Option<Users>| {
            let Some((users, duties)) = users.as_ref().and_then(|u| Some((u, u.duties.as_ref()?))) else {
                return true;
            };
            let known = |who: &String| self.acknowledged.by(who, duties, policy);
            let person =
                user.and_then(|name| users.by_name(name)).map(|u| duties::user(u.name.as_str(), u.uid));
            (!duties.of.contains(&Whom::Users) || person.as_ref().is_none_or(known))
                && (!duties.of.contains(&Whom::Apps) || app.is_empty() || app.iter().any(known))
        };
        if !self.users.is_empty() && !self.users.holds(place, good) {
            found.breach(
                Rule::Duties,
                place.index,
                "somebody whom the duties bind had not acknowledged them",
            );
        }
    }

    /// The intent names the user whose key it is; gives why nothing should come of it, if nothing should.
    // [clause 8.2.3-d] what says that a user was here is held against when they came and went
    pub(super) fn used(
        &self,
        place: Place,
        key: &str,
        app: &str,
        user: Option<String>,
        found: &mut Findings,
    ) -> Option<(Rule, String)> {
        let line = Name::parse(key).map(|name| name.line());
        let named = |users: &Option<Users>| {
            let of = users.as_ref().zip(line.as_ref()).and_then(|(users, line)| users.of_line(line));
            of.map(|of| of.name.as_str()) == user.as_deref()
        };
        // Before any document there are no users.
        let right = if self.users.is_empty() { user.is_none() } else { self.users.holds(place, named) };
        if !right {
            let what = match &user {
                Some(user) => format!("{key} was no key of {user}"),
                None => format!("{key} has a user, whom it does not name"),
            };
            found.breach(Rule::User, place.index, what);
        }
        let user = user?;
        let why = format!("while {user} was not here");
        let open = self.sessions.get(&(user, app.to_owned())).copied().unwrap_or_default();
        (open == 0).then_some((Rule::User, why))
    }
}
