//! Something that is checked at each tick: what is wrong with it now, and how much was mended since the start. Pure.

#[derive(Debug, Default)]
pub(super) struct Watched {
    wrong: Vec<String>,
    mended: u64,
}

/// What a check has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Wrong now, and not before.
    pub(super) begins: Vec<String>,
    /// Wrong before, and not now.
    pub(super) ends: Vec<String>,
}

impl Watched {
    /// A sentence for each thing that is wrong.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// How often something was mended since the start.
    pub(super) fn mended(&self) -> u64 {
        self.mended
    }

    /// Counts that this many things were mended.
    pub(super) fn mend(&mut self, count: usize) {
        self.mended += count as u64;
    }

    /// Takes in what a check has found to be wrong.
    pub(super) fn look(&mut self, wrong: Vec<String>) -> News {
        let begins = wrong.iter().filter(|why| !self.wrong.contains(why)).cloned().collect();
        let before = std::mem::replace(&mut self.wrong, wrong);
        let ends = before.into_iter().filter(|why| !self.wrong.contains(why)).collect();
        News { begins, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_says_what_begins_and_what_ends_once() {
        let said = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut watched = Watched::default();
        assert_eq!(watched.look(said(&["a", "b"])), News { begins: said(&["a", "b"]), ends: vec![] });
        assert_eq!(watched.look(said(&["b", "c"])), News { begins: said(&["c"]), ends: said(&["a"]) });
        assert_eq!(watched.look(said(&["b", "c"])), News { begins: vec![], ends: vec![] });
        assert_eq!(watched.wrong(), said(&["b", "c"]));
    }
}
