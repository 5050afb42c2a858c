//! The vault: the locks of all bundles, in two places at least, each under a root in a token. [clause 8.7.1]
//!
//! Nothing here is done halfway: a table is replaced as a whole, read back from the disk and opened, and only then is an
//! old root destroyed. What a crash leaves behind, a root too many, is removed before the next thing is done.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::token_refusal;
use crate::core::backup::vault::{self, Table, VaultFile};
use crate::core::key::KeyRef;
use crate::core::units::{Timestamp, sha256};
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;
use crate::token::keeper::{Keeper, KeeperState};

/// One place of the vault.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// Of the token that holds its root.
    pub(super) keeper: Keeper,
    /// The token is the daemon's own.
    pub(super) own: bool,
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Refusal::new(Code::Internal, format!("no random bytes: {e}")))?;
    Ok(bytes)
}

/// Replaces a file as a whole, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(dir)?.sync_all()
}

impl Place {
    fn failed(&self, what: impl std::fmt::Display) -> Refusal {
        Refusal::new(
            Code::VaultFailed,
            format!("the vault at {} ({}): {what}", self.name, self.file.display()),
        )
    }

    /// Waits a moment for a token that is being connected.
    pub(super) async fn connected(&self) {
        for _ in 0..200 {
            if self.keeper.state() != KeeperState::Probing {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn token(&self, error: &crate::token::TokenError) -> Refusal {
        self.failed(token_refusal(error))
    }

    /// Roots of this place begin with this: what else of it is in the token is left over from a crash.
    fn prefix(&self) -> [u8; 10] {
        let mut prefix = *b"cvault----";
        prefix.iter_mut().skip(6).zip(sha256(self.name.as_bytes())).for_each(|(to, from)| *to = from);
        prefix
    }

    fn new_root(&self) -> Result<KeyRef, Refusal> {
        let mut id = random::<16>()?;
        id.iter_mut().zip(self.prefix()).for_each(|(to, from)| *to = from);
        Ok(KeyRef::from(id))
    }

    async fn roots(&self) -> Result<Vec<KeyRef>, Refusal> {
        let objects = self.keeper.roots().await.map_err(|e| self.token(&e))?;
        let ids = objects.iter().filter_map(|o| KeyRef::parse(&o.id));
        let mut roots: Vec<KeyRef> = ids.filter(|id| id.as_bytes().starts_with(&self.prefix())).collect();
        roots.dedup();
        Ok(roots)
    }

    /// Stands beside the file from before the first root is made until the first table is written.
    fn begun(&self) -> PathBuf {
        let mut path = self.file.as_os_str().to_owned();
        path.push(".begun");
        path.into()
    }

    fn on_disk(&self) -> Result<Option<VaultFile>, Refusal> {
        let mut bytes = Vec::new();
        let read =
            fs::File::open(&self.file).and_then(|f| f.take(vault::LONGEST + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > vault::LONGEST => Err(self.failed("it is too long")),
            Ok(_) => VaultFile::parse(&bytes, &self.name).map(Some).map_err(|e| self.failed(e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Opens what stands on the disk; `None` where nothing was ever written.
    pub(super) async fn read(&self) -> Result<Option<(KeyRef, Table)>, Refusal> {
        let Some(file) = self.on_disk()? else {
            // A first root whose table was never written locks nothing.
            return if self.begun().exists() || self.roots().await?.is_empty() {
                Ok(None)
            } else {
                Err(self.failed("its file is gone, and its root is still in the token: put the file back"))
            };
        };
        let bound = vault::bound(&self.name, file.root);
        let key = match self.keeper.find(file.root).await.map_err(|e| self.token(&e))? {
            Some(_) => self.keeper.open_under_root(file.root, file.key_nonce, bound, file.key.clone()).await,
            // [clause 8.7.1-s] an older copy of the table opens no more: its root was destroyed
            None => {
                return Err(
                    self.failed("its root is not in the token: the file is an old copy, or another token's")
                );
            }
        };
        let key = key.map_err(|e| self.token(&e))?;
        Ok(Some((file.root, file.open(&key).map_err(|e| self.failed(e))?)))
    }

    /// The root in use, as the file names it.
    pub(super) fn root(&self) -> Option<KeyRef> {
        self.on_disk().ok().flatten().map(|file| file.root)
    }

    async fn write(&self, table: &Table, root: KeyRef) -> Result<(), Refusal> {
        let key = SecretBytes::<32>::fill(|out| getrandom::fill(out)).map_err(|e| self.failed(e))?;
        let nonce = random::<12>()?;
        let bound = vault::bound(&self.name, root);
        let wrapped =
            self.keeper.seal_under_root(root, nonce, bound, &key).await.map_err(|e| self.token(&e))?;
        let file = VaultFile::close(table, &self.name, root, &key, (nonce, wrapped), random::<12>()?)
            .map_err(|e| self.failed(e))?;
        let text = serde_json::to_vec(&file).map_err(|e| self.failed(e))?;
        replace(&self.file, &text).map_err(|e| self.failed(e))?;
        match self.read().await? {
            Some((found, again)) if found == root && again.same(table) => Ok(()),
            _ => Err(self.failed("what was written is not what is read back")),
        }
    }

    /// Removes every root but the one in use.
    async fn settle(&self, current: KeyRef) -> Result<(), Refusal> {
        for root in self.roots().await?.into_iter().filter(|r| *r != current) {
            self.keeper.destroy(root).await.map_err(|e| self.token(&e))?;
            if self.keeper.find(root).await.map_err(|e| self.token(&e))?.is_some() {
                return Err(self.failed("an old root is still in the token after it was told to destroy it"));
            }
            tracing::info!(place = self.name, "an old root of the vault was destroyed");
        }
        Ok(())
    }

    /// Brings this place to what the table says. Where something was destroyed, the root goes too.
    // [clause 8.7.1-s] new root, new table, read back, and only then the old root is destroyed: no crash loses a lock, and
    // none leaves an old copy that opens once this has been done
    async fn bring_to(&self, table: &Table, now: Option<(KeyRef, Table)>) -> Result<(), Refusal> {
        let current = match now {
            Some((root, old)) if old.same(table) => root,
            Some((root, old)) if !old.loses_to(table) => {
                self.write(table, root).await?;
                root
            }
            now => {
                if now.is_none() {
                    replace(&self.begun(), b"the first table of this place is being written\n")
                        .map_err(|e| self.failed(e))?;
                }
                let root = self.new_root()?;
                self.keeper.make_root(root).await.map_err(|e| self.token(&e))?;
                self.write(table, root).await?;
                root
            }
        };
        self.settle(current).await?;
        match fs::remove_file(self.begun()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.failed(e)),
            _ => Ok(()),
        }
    }
}

/// A root and the table under it, where a place has one.
type Now = Option<(KeyRef, Table)>;

/// What stands in each place. Two places in one token are one place.
async fn reach(places: &[Place]) -> Vec<(&Place, Result<Now, Refusal>)> {
    let (mut serials, mut all): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
    for place in places {
        place.connected().await;
        let found = match place.keeper.describe().map(|d| d.serial) {
            None => Err(place.failed("its token is not connected")),
            Some(serial) if serials.contains(&serial) => {
                Err(place.failed("its root would be in the same token as another's: that is no second place"))
            }
            Some(serial) => {
                serials.push(serial);
                place.read().await
            }
        };
        all.push((place, found));
    }
    all
}

fn learned<'a>(tables: impl Iterator<Item = &'a Table>) -> Table {
    let mut all = Table::default();
    tables.for_each(|table| all.learn(table));
    all
}

/// What is done with the vault: `Ok` when every place says the same, on disk and after being read back.
pub(super) async fn apply(
    places: &[Place],
    change: impl FnOnce(&mut Table) + Send,
) -> Result<Table, Refusal> {
    let mut found = Vec::new();
    for (place, now) in reach(places).await {
        found.push((place, now?));
    }
    let mut table = learned(found.iter().filter_map(|(_, now)| Some(&now.as_ref()?.1)));
    change(&mut table);
    for (place, now) in found {
        place.bring_to(&table, now).await?;
    }
    Ok(table)
}

/// Destroys a lock wherever that can be done now, and tells of each place what became of it.
// [clause 8.7.1-p] a place that is away keeps no other from letting go
pub(super) async fn destroy(
    places: &[Place],
    id: vault::LockId,
    at: Timestamp,
) -> Vec<(String, Result<(), Refusal>)> {
    let found = reach(places).await;
    let mut table = learned(found.iter().filter_map(|(_, now)| Some(&now.as_ref().ok()?.as_ref()?.1)));
    table.destroy(id, at);
    let mut all = Vec::new();
    for (place, now) in found {
        let outcome = match now {
            Ok(now) => place.bring_to(&table, now).await,
            Err(refusal) => Err(refusal),
        };
        all.push((place.name.clone(), outcome));
    }
    all
}

/// What all places together know. One that cannot be read might know of a key that was destroyed.
pub(super) async fn look(places: &[Place]) -> Result<Table, Refusal> {
    let mut tables = Vec::new();
    for (_, now) in reach(places).await {
        tables.extend(now?.map(|(_, table)| table));
    }
    Ok(learned(tables.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::backup::vault::{Found, LockId};
    use crate::core::key::PublicKey;
    use crate::secret::Pin;
    use crate::token::embedded::EmbeddedToken;
    use crate::token::keeper::{Backend, KeeperConfig};
    use crate::token::profile::Profile;

    fn place(dir: &Path, name: &str) -> Place {
        let pin = || Pin::new("pass".to_owned()).unwrap();
        let (token, profile) = (dir.join(name), Profile::load("embedded").unwrap());
        EmbeddedToken::create(&token, &pin()).unwrap();
        let backend = Backend::Embedded { dir: token, profile };
        let keeper = Keeper::start(backend, Some(pin()), KeeperConfig::default());
        Place { name: name.into(), file: dir.join(format!("{name}.json")), keeper, own: false }
    }

    fn id(n: u8) -> LockId {
        LockId::of(&PublicKey::Ed25519([n; 32]))
    }

    async fn knows(place: &Place, n: u8) -> &'static str {
        let (_, table) = place.read().await.unwrap().unwrap();
        match table.find(id(n)) {
            Found::Lock(lock) if lock.expose() == &[n; 32] => "lock",
            Found::Lock(_) => "another",
            Found::Gone(_) => "gone",
            Found::Nothing => "nothing",
        }
    }

    // [clause 8.7.1-s] test
    // [clause 8.7.1-p] test
    #[tokio::test(flavor = "multi_thread")]
    async fn wherever_a_crash_strikes_no_lock_is_lost_and_none_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = [place(dir.path(), "a"), place(dir.path(), "b")];
        let [a, b] = &places;
        // The very first root was made, and the machine died before there was a table.
        replace(&a.begun(), b"x").unwrap();
        a.connected().await;
        a.keeper.make_root(a.new_root().unwrap()).await.unwrap();
        for n in [1, 2] {
            apply(&places, |t| t.put(id(n), SecretBytes::copy_of(&[n; 32]))).await.unwrap();
        }
        assert!(!a.begun().exists() && !b.begun().exists());
        let (first, old) = (a.roots().await.unwrap(), fs::read(&a.file).unwrap());
        assert_eq!(first.len(), 1);
        // A root was made, and the machine died before the table was written under it.
        a.keeper.make_root(a.new_root().unwrap()).await.unwrap();
        apply(&places, |_| ()).await.unwrap();
        assert_eq!(a.roots().await.unwrap(), first);
        assert_eq!((knows(a, 1).await, knows(a, 2).await, knows(b, 1).await), ("lock", "lock", "lock"));

        // The table stands under the new root, and the old root was not destroyed any more. The other place knows nothing.
        let (_, mut table) = a.read().await.unwrap().unwrap();
        table.destroy(id(1), Timestamp(9));
        let root = a.new_root().unwrap();
        a.keeper.make_root(root).await.unwrap();
        a.write(&table, root).await.unwrap();
        assert_eq!(a.roots().await.unwrap().len(), 2);
        assert_eq!(knows(b, 1).await, "lock");
        apply(&places, |_| ()).await.unwrap();
        assert_eq!((a.roots().await.unwrap(), b.roots().await.unwrap().len()), (vec![root], 1));
        for place in &places {
            assert_eq!((knows(place, 1).await, knows(place, 2).await), ("gone", "lock"));
        }

        // A copy of the table from before, put back, opens no more; nor is anything written over it.
        let now = fs::read(&a.file).unwrap();
        fs::write(&a.file, &old).unwrap();
        let refused = apply(&places, |t| t.put(id(3), SecretBytes::copy_of(&[3; 32]))).await.err().unwrap();
        assert!(refused.code == Code::VaultFailed && refused.sentence.contains("an old copy"), "{refused}");
        assert_eq!(fs::read(&a.file).unwrap(), old);
        fs::write(&a.file, &now).unwrap();
        // What was destroyed gets no lock again, from nobody.
        apply(&places, |t| t.put(id(1), SecretBytes::copy_of(&[1; 32]))).await.unwrap();
        assert_eq!((knows(a, 1).await, knows(a, 3).await), ("gone", "nothing"));

        // A place that is away keeps no other from letting go, and follows when it is back.
        let there = fs::read(&b.file).unwrap();
        fs::remove_file(&b.file).unwrap();
        let told = destroy(&places, id(2), Timestamp(10)).await;
        assert!(told[0].1.is_ok() && told[1].1.is_err(), "the second is away");
        assert_eq!(knows(a, 2).await, "gone");
        assert!(look(&places).await.is_err(), "what is away might know of more");
        fs::write(&b.file, there).unwrap();
        assert_eq!(knows(b, 2).await, "lock");
        assert!(matches!(look(&places).await.unwrap().find(id(2)), Found::Gone(_)));
        assert!(destroy(&places, id(2), Timestamp(11)).await.iter().all(|(_, outcome)| outcome.is_ok()));
        assert_eq!((knows(a, 2).await, knows(b, 2).await), ("gone", "gone"));
        let now = fs::read(&a.file).unwrap();

        // A lost file is no empty vault, and a changed one is none at all.
        fs::remove_file(&a.file).unwrap();
        assert!(apply(&places, |_| ()).await.err().unwrap().sentence.contains("put the file back"));
        let mut changed = now.clone();
        let at = changed.len() - 10;
        changed[at] ^= 1;
        fs::write(&a.file, &changed).unwrap();
        assert!(a.read().await.is_err());
        // Two places in one token are one place.
        let same =
            Place { name: "c".into(), file: dir.path().join("c"), keeper: b.keeper.clone(), own: false };
        fs::write(&a.file, &now).unwrap();
        let [a, b] = places;
        let refused = apply(&[a, b, same], |_| ()).await.err().unwrap();
        assert!(refused.sentence.contains("no second place"), "{refused}");
    }
}
