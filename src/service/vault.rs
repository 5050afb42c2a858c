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
use crate::core::units::sha256;
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
        let objects = self.keeper.inventory().await.map_err(|e| self.token(&e))?;
        let ids = objects.iter().filter_map(|o| KeyRef::parse(&o.id));
        let mut roots: Vec<KeyRef> = ids.filter(|id| id.as_bytes().starts_with(&self.prefix())).collect();
        roots.dedup();
        Ok(roots)
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
            return if self.roots().await?.is_empty() {
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
            _ => {
                let root = self.new_root()?;
                self.keeper.make_root(root).await.map_err(|e| self.token(&e))?;
                self.write(table, root).await?;
                root
            }
        };
        self.settle(current).await
    }
}

/// What is done with the vault: `Ok` when every place says the same, on disk and after being read back.
pub(super) async fn apply(
    places: &[Place],
    change: impl FnOnce(&mut Table) + Send,
) -> Result<Table, Refusal> {
    let mut serials: Vec<String> = Vec::new();
    for place in places {
        place.connected().await;
        let serial = place.keeper.describe().map(|d| d.serial);
        let serial = serial.ok_or_else(|| place.failed("its token is not connected"))?;
        if serials.contains(&serial) {
            return Err(
                place.failed("its root would be in the same token as another's: that is no second place")
            );
        }
        serials.push(serial);
    }
    let mut found = Vec::new();
    let mut table = Table::default();
    for place in places {
        let now = place.read().await?;
        if let Some((_, old)) = &now {
            table.learn(old);
        }
        found.push(now);
    }
    change(&mut table);
    for (place, now) in places.iter().zip(found) {
        place.bring_to(&table, now).await?;
    }
    Ok(table)
}
