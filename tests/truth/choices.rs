//! Random choices that are written down: the same list makes the same thing again, and a shorter list or
//! smaller numbers make something simpler. Generators put the simplest case first.

/// A source of choices: random ones, or those of an earlier run, then zeros.
pub struct Choices {
    pub made: Vec<u32>,
    given: Vec<u32>,
    random: Option<u64>,
}

impl Choices {
    /// New ones of a seed.
    pub fn random(seed: u64) -> Self {
        let mut choices = Self { made: Vec::new(), given: Vec::new(), random: Some(seed) };
        choices.next();
        choices
    }

    /// The same again.
    pub fn again(made: &[u32]) -> Self {
        Self { made: Vec::new(), given: made.to_vec(), random: None }
    }

    /// splitmix64: seeds that follow each other give unlike numbers.
    fn next(&mut self) -> Option<u64> {
        let state = self.random.as_mut()?;
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = *state;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(it ^ (it >> 31))
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        let given = self.given.get(self.made.len()).map(|it| *it as usize);
        let random = self.next().map(|it| (it >> 16) as usize % bound);
        let choice = random.or(given).unwrap_or(0).min(bound - 1);
        self.made.push(choice as u32);
        choice
    }

    /// Whether something happens that makes things more complicated.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) >= 100 - percent
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// An index; each is as likely as its weight.
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (i, weight) in weights.iter().enumerate() {
            if at < *weight {
                return i;
            }
            at -= weight;
        }
        0
    }
}
