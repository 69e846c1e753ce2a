//! Where things lie: what `extents`, `seek_data` and `seek_hole` tell, against the oracle.
//!
//! Guarantees that no answer is called wrong that the verbs allow: a block about which the oracle
//! knows nothing may be stored or not. An error is a sentence. Does not call the engine. Used by `play`.

use foliant::ExtentInfo;
use foliant::ExtentState;

use super::oracle::BLOCK;
use super::oracle::Model;
use super::oracle::Stored;

/// One extent by itself: whole blocks, and a place on the device exactly if it has one.
fn judge_extent(extent: &ExtentInfo) -> Result<(), String> {
    let range = &extent.range;
    let aligned = range.start.is_multiple_of(BLOCK) && range.end.is_multiple_of(BLOCK);
    let placed = match extent.state {
        ExtentState::Unwritten | ExtentState::Mapped => true,
        ExtentState::Delalloc => false,
        ExtentState::Inline if *range != (0..BLOCK) => {
            return Err(format!("only the first block can be inline: {extent:?}"));
        }
        ExtentState::Inline => false,
    };
    let at = extent.device_offset;
    if range.is_empty() || !aligned || at.is_some() != placed {
        return Err(format!("impossible by itself: {extent:?}"));
    }
    match at.is_some_and(|at| at == 0 || !at.is_multiple_of(BLOCK)) {
        true => Err(format!("no place for data: {extent:?}")),
        false => Ok(()),
    }
}

/// Extents ascend, do not overlap, neither in the object nor on the device, and lie where the model
/// says.
pub(super) fn judge_extents(extents: &[ExtentInfo], model: &Model) -> Result<(), String> {
    let mut end = 0;
    let mut marks = vec![None; model.blocks() as usize];
    let mut places = Vec::new();
    for extent in extents {
        judge_extent(extent)?;
        let range = &extent.range;
        if range.start < end {
            return Err(format!("extent {range:?} behind byte {end}"));
        }
        end = range.end;
        places.extend(extent.device_offset.map(|at| (at, at + range.end - range.start)));
        for block in range.start / BLOCK..range.end / BLOCK {
            if model.stored(block) == Stored::Hole {
                return Err(format!("block {block} is stored, and it must be a hole: {extent:?}"));
            }
            marks[block as usize] = Some(extent.state);
        }
    }
    places.sort_unstable();
    if let Some(pair) = places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(format!("two extents share a place: {pair:?}"));
    }
    for block in (0..model.blocks()).filter(|_| model.synced) {
        let mark = marks[block as usize];
        let bad = match (model.stored(block), mark) {
            (Stored::Yes, None) => "must be stored, and is not",
            (_, Some(ExtentState::Delalloc)) => "has no place behind a sync",
            (_, None | Some(ExtentState::Unwritten)) if model.has_data(block) => {
                "holds data, and is not mapped"
            }
            _ => continue,
        };
        return Err(format!("block {block} {bad}"));
    }
    Ok(())
}

/// What a seek from `at` on told: data is never passed by, holes read as zero, the end of the
/// object is a hole, behind it there is nothing; and the extents from there on say the same.
pub(super) fn judge_seek(
    at: u64,
    data: Option<u64>,
    hole: Option<u64>,
    extents: &[ExtentInfo],
    model: &Model,
) -> Result<(), String> {
    let size = model.bytes.len();
    let told = format!("of {size} bytes, from {at} on, data at {data:?}, a hole at {hole:?}");
    if at >= size {
        return match (data, hole) {
            (None, None) => Ok(()),
            _ => Err(format!("nothing lies behind the end: {told}")),
        };
    }
    let Some(hole) = hole else { return Err(format!("the end is a hole: {told}")) };
    let fits = |found: u64| found == at || (found > at && found.is_multiple_of(BLOCK));
    let data_fits = data.is_none_or(|data| data < size && fits(data));
    let hole_fits = hole == size || (hole < size && fits(hole));
    if !data_fits || !hole_fits || (data == Some(at)) == (hole == at) {
        return Err(format!("no possible places: {told}"));
    }
    let state = |block: u64| {
        let own = |extent: &&ExtentInfo| extent.range.contains(&(block * BLOCK));
        extents.iter().find(own).map(|extent| extent.state)
    };
    // Up to the data there are holes; up to the hole there is data.
    let holes = at / BLOCK..data.unwrap_or(size).max(at).div_ceil(BLOCK);
    for block in if data == Some(at) { 0..0 } else { holes } {
        let stored = matches!(state(block), Some(s) if s != ExtentState::Unwritten);
        if model.has_data(block) || stored {
            return Err(format!("block {block} is data, {:?}: {told}", state(block)));
        }
    }
    for block in if hole == at { 0..0 } else { at / BLOCK..hole.div_ceil(BLOCK) } {
        if model.stored(block) == Stored::Hole || state(block).is_none() {
            return Err(format!("block {block} is a hole, {:?}: {told}", state(block)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::oracle::Oracle;
    use super::*;

    fn extent(start: u64, end: u64, at: Option<u64>, state: ExtentState) -> ExtentInfo {
        let at = at.map(|block| block * BLOCK);
        ExtentInfo { range: start * BLOCK..end * BLOCK, device_offset: at, state }
    }

    fn oracle(log: &str) -> Oracle {
        let mut oracle = Oracle::new(1);
        super::super::op::parse_log(log).unwrap().iter().for_each(|op| oracle.apply(op));
        oracle
    }

    #[test]
    fn wrong_seeks_are_noticed() {
        let oracle = oracle("write 0 4096+5000 #1\ntruncate 0 20000");
        let model = oracle.object(0);
        let extents = [extent(1, 3, None, ExtentState::Delalloc)];
        let judge = |at, data, hole| judge_seek(at, data, hole, &extents, model).is_ok();
        assert!(judge(0, Some(4096), Some(0)) && judge(5000, Some(5000), Some(12288)));
        assert!(judge(13000, None, Some(13000)) && judge(20000, None, None));
        assert!(!judge(0, None, Some(0)) && !judge(0, Some(8192), Some(0)));
        assert!(!judge(5000, Some(5000), Some(20000)) && !judge(5000, Some(5000), None));
        assert!(!judge(5000, None, Some(5000)) && !judge(13000, Some(13000), Some(13000)));
        assert!(!judge(20000, None, Some(20000)));
    }

    #[test]
    fn wrong_extents_are_noticed() {
        use ExtentState::Delalloc;
        use ExtentState::Inline;
        use ExtentState::Mapped;
        let oracle = oracle("write 0 0+20000 #1\nsync 0");
        let judge = |extents: &[ExtentInfo]| judge_extents(extents, oracle.object(0)).is_ok();
        assert!(judge(&[extent(0, 5, Some(9), Mapped)]));
        assert!(judge(&[extent(0, 1, None, Inline), extent(1, 5, Some(9), Mapped)]));
        assert!(!judge(&[extent(0, 5, None, Mapped)]));
        assert!(!judge(&[extent(0, 5, None, Delalloc)]));
        assert!(!judge(&[extent(0, 5, Some(9), ExtentState::Unwritten)]));
        assert!(!judge(&[extent(0, 3, Some(9), Mapped), extent(3, 5, Some(10), Mapped)]));
        assert!(!judge(&[extent(0, 4, Some(9), Mapped), extent(4, 5, None, Inline)]));
    }
}
