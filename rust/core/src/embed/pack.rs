//! Packing texts into requests under every cap of the provider at once.

use std::fmt;

/// Texts a request by default: beyond it a client's CPU per text no longer falls, and a killed
/// job loses more.
pub const TARGET_TEXTS: usize = 128;

/// What one request may hold; None where nothing caps the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Most texts; 0 counts as 1.
    pub texts: usize,
    /// Most tokens of all texts together: a text over it cannot be sent.
    pub tokens: Option<u64>,
    /// Where a request is closed; a single text may pass it, up to `tokens`.
    pub target_tokens: Option<u64>,
}

/// Why texts cannot be packed; nothing is packed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackError {
    /// A text has more tokens than a whole request may.
    TooLarge {
        /// Which text.
        index: usize,
        /// Its tokens.
        tokens: u64,
        /// The cap.
        cap: u64,
    },
    /// A count is negative.
    Negative {
        /// Which text.
        index: usize,
    },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { index, tokens, cap } => write!(
                f,
                "text {index} has {tokens} tokens, more than the {cap} a request may hold; \
                 truncate or split it"
            ),
            Self::Negative { index } => write!(f, "the token count of text {index} is negative"),
        }
    }
}

impl std::error::Error for PackError {}

/// Split texts, given by their token counts, into requests: in order, each as full as the caps
/// allow, which is also the fewest requests there can be without reordering.
///
/// Returns where each request begins and, last, the number of texts: request k holds the texts
/// `offsets[k]..offsets[k + 1]`.
pub fn pack<C: Copy + Into<i64>>(counts: &[C], caps: Caps) -> Result<Vec<usize>, PackError> {
    let most_texts = caps.texts.max(1);
    let cap = caps.tokens.unwrap_or(u64::MAX);
    let target = caps.target_tokens.unwrap_or(cap).min(cap);
    let mut offsets = vec![0];
    let (mut start, mut used) = (0, 0_u64);
    for (index, &count) in counts.iter().enumerate() {
        let tokens = checked(index, count, cap)?;
        let sum = used.saturating_add(tokens);
        if index > start && (index - start == most_texts || sum > target) {
            offsets.push(index);
            (start, used) = (index, tokens);
        } else {
            used = sum;
        }
    }
    if !counts.is_empty() {
        offsets.push(counts.len());
    }
    Ok(offsets)
}

/// The counts as tokens, each within what a request may hold.
pub(super) fn tokens_of<C: Copy + Into<i64>>(
    counts: &[C],
    caps: Caps,
) -> Result<Vec<u64>, PackError> {
    let cap = caps.tokens.unwrap_or(u64::MAX);
    let counts = counts.iter().enumerate();
    counts
        .map(|(index, &count)| checked(index, count, cap))
        .collect()
}

fn checked<C: Into<i64>>(index: usize, count: C, cap: u64) -> Result<u64, PackError> {
    let tokens = u64::try_from(count.into()).map_err(|_| PackError::Negative { index })?;
    if tokens > cap {
        return Err(PackError::TooLarge { index, tokens, cap });
    }
    Ok(tokens)
}

/// The default size of a request under limits of requests and tokens a minute.
///
/// * `target_tokens`: 1 % of `tpm`, so that a killed job loses little, but at least `tpm ÷ rpm`,
///   rounded up: smaller requests would use up the requests and leave tokens unused. The two
///   conflict where `rpm` is under 100; then `tpm ÷ rpm` wins, because a slow job loses more than
///   a killed one. None without `tpm`, and never over `provider_tokens`.
/// * `texts`: [`TARGET_TEXTS`], or as many texts of `mean_tokens` as reach `tpm ÷ rpm`, if more;
///   never over `provider_texts`.
/// * `tokens`: `provider_tokens`.
pub fn request_caps(
    rpm: Option<u64>,
    tpm: Option<u64>,
    provider_texts: usize,
    provider_tokens: Option<u64>,
    mean_tokens: Option<u64>,
) -> Caps {
    let most = provider_tokens.unwrap_or(u64::MAX).max(1);
    let floor = match (rpm, tpm) {
        (Some(rpm), Some(tpm)) => tpm.div_ceil(rpm.max(1)).min(most),
        _ => 0,
    };
    let needed = mean_tokens.map_or(0, |mean| floor.div_ceil(mean.max(1)));
    let texts = usize::try_from(needed)
        .unwrap_or(usize::MAX)
        .max(TARGET_TEXTS);
    Caps {
        texts: texts.min(provider_texts).max(1),
        tokens: provider_tokens,
        target_tokens: tpm.map(|tpm| (tpm / 100).max(floor).clamp(1, most)),
    }
}
