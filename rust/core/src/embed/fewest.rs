//! Packing texts into the fewest requests, in any order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pack::{Caps, PackError, pack, tokens_of};

/// Requests under way, by what each can still take.
#[derive(Debug)]
struct Bin {
    texts: Vec<usize>,
    free: u64,
}

/// Split texts, given by their token counts, into few requests: no request is over `caps.texts` or
/// `caps.tokens`, `caps.target_tokens` is not looked at.
///
/// With `whole` every text is in a request. Otherwise only as many requests are made as these texts
/// fill, and the texts that are in none are to be packed again with those that follow.
///
/// The bound is the larger of tokens ÷ `caps.tokens` and texts ÷ `caps.texts`. Texts are dealt out
/// from the longest to the shortest, each to the request with the most room, so that requests come
/// out alike in both measures and meet the bound where texts are small beside a request. Where they
/// are not, first-fit decreasing does better, and now and then the order they came in: the best of
/// the three counts.
pub fn pack_fewest<C: Copy + Into<i64>>(
    counts: &[C],
    caps: Caps,
    whole: bool,
) -> Result<Vec<Vec<usize>>, PackError> {
    let tokens = tokens_of(counts, caps)?;
    let cap = caps.tokens.unwrap_or(u64::MAX);
    let most = caps.texts.max(1);
    let sum: u128 = tokens.iter().map(|&count| u128::from(count)).sum();
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&index| Reverse(tokens[index]));
    if !whole {
        let filled = (sum / u128::from(cap.max(1))).max((tokens.len() / most) as u128);
        let filled = usize::try_from(filled).unwrap_or(usize::MAX);
        return Ok(deal(&order, &tokens, filled, most, cap).0);
    }
    let bound = sum
        .div_ceil(u128::from(cap.max(1)))
        .max(tokens.len().div_ceil(most) as u128);
    let bound = usize::try_from(bound).unwrap_or(usize::MAX);
    let fitted = first_fit(&order, &tokens, most, cap);
    // One more at a time: a deal that fails by little fits soon, one that fails by much is worse
    // than first-fit and not worth the tries.
    for requests in (bound..fitted.len()).take(8) {
        let (dealt, is_all) = deal(&order, &tokens, requests, most, cap);
        if is_all {
            return Ok(dealt);
        }
    }
    let in_order = pack(
        counts,
        Caps {
            target_tokens: None,
            ..caps
        },
    )?;
    if in_order.len() - 1 < fitted.len() {
        return Ok(in_order
            .windows(2)
            .map(|pair| (pair[0]..pair[1]).collect())
            .collect());
    }
    Ok(fitted)
}

/// Deal texts out to so many requests, each to that with the most room, and say whether all fit.
fn deal(
    order: &[usize],
    tokens: &[u64],
    requests: usize,
    most: usize,
    cap: u64,
) -> (Vec<Vec<usize>>, bool) {
    let requests = requests.min(order.len());
    let mut bins: Vec<Vec<usize>> = vec![Vec::new(); requests];
    let mut heap: BinaryHeap<(u64, Reverse<usize>)> =
        (0..requests).map(|bin| (cap, Reverse(bin))).collect();
    let mut is_all = true;
    for &index in order {
        // The one with the most room cannot take it: nor can the others, but shorter texts may fit.
        let Some(&(free, Reverse(bin))) = heap.peek().filter(|bin| bin.0 >= tokens[index]) else {
            is_all = false;
            continue;
        };
        heap.pop();
        bins[bin].push(index);
        if bins[bin].len() < most {
            heap.push((free - tokens[index], Reverse(bin)));
        }
    }
    bins.retain(|bin| !bin.is_empty());
    (bins, is_all)
}

/// First-fit decreasing under both caps: a tree of the most room answers which is the first.
fn first_fit(order: &[usize], tokens: &[u64], most: usize, cap: u64) -> Vec<Vec<usize>> {
    let leaves = order.len().next_power_of_two();
    // Room plus one, so that 0 is a request that takes nothing more.
    let mut room = vec![u128::from(cap) + 1; 2 * leaves];
    let mut bins: Vec<Bin> = Vec::new();
    for &index in order {
        let needed = u128::from(tokens[index]) + 1;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            node += usize::from(room[node] < needed);
        }
        let number = node - leaves;
        if number == bins.len() {
            bins.push(Bin {
                texts: Vec::new(),
                free: cap,
            });
        }
        let bin = &mut bins[number];
        bin.texts.push(index);
        bin.free -= tokens[index];
        room[node] = if bin.texts.len() < most {
            u128::from(bin.free) + 1
        } else {
            0
        };
        while node > 1 {
            node /= 2;
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
    }
    bins.into_iter().map(|bin| bin.texts).collect()
}
