// SPDX-License-Identifier: GPL-2.0
/* The log of the device's DMA, with limits as hardware has them. See edu_vfio.h. */
#include <linux/interval_tree.h>
#include <linux/module.h>
#include "edu_vfio.h"

static unsigned int log_ranges = 256;
module_param(log_ranges, uint, 0444);
MODULE_PARM_DESC(log_ranges, "ranges that a log takes; more are merged, gaps and all");

static unsigned long log_bytes;
module_param(log_bytes, ulong, 0444);
MODULE_PARM_DESC(log_bytes, "most that all ranges of a log may have together; 0 for no limit");

static unsigned int log_shift = PAGE_SHIFT;
module_param(log_shift, uint, 0444);
MODULE_PARM_DESC(log_shift, "log2 of a log's page size");

static bool log_forgets;
module_param(log_forgets, bool, 0644);
MODULE_PARM_DESC(log_forgets, "a fault for tests: nothing is logged");

static void mark(struct edu_device *edu, u64 first, u64 last)
{
	u32 i;

	if (!edu->logging || log_forgets)
		return;
	for (i = 0; i < edu->log_ranges; i++) {
		u64 from = max(first, edu->log_range[i].first), to = min(last, edu->log_range[i].last), page;

		if (from > to)
			continue;
		for (page = from >> log_shift; page <= to >> log_shift; page++)
			if (xa_err(xa_store(&edu->log_pages, page, xa_mk_value(1), GFP_KERNEL)))
				edu->log_lost = true;
	}
}

/* A transfer begins; the one before has ended. */
void edu_log_transfer(struct edu_device *edu)
{
	u64 count = min_t(u64, edu->dma.count, EDU_BUFFER_BYTES);

	if (edu->writing)
		mark(edu, edu->writing_first, edu->writing_last);
	edu->writing = (edu->dma.command & EDU_DMA_TO_MEMORY) && count;
	edu->writing_first = edu->dma.destination & edu_dma_mask;
	edu->writing_last = edu->writing_first + count - 1;
}

void edu_log_end(struct edu_device *edu)
{
	edu->logging = false;
	edu->log_lost = false;
	edu->log_ranges = 0;
	xa_destroy(&edu->log_pages);
}

static int start_log(struct edu_device *edu, struct rb_root_cached *ranges, u32 count, u64 *page_size)
{
	struct interval_tree_node *node;
	u64 total = 0;

	if (edu->logging)
		return -EBUSY;
	if (count > log_ranges)
		vfio_combine_iova_ranges(ranges, count, log_ranges);
	edu->log_ranges = 0;
	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node; node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		if (edu->log_ranges == ARRAY_SIZE(edu->log_range))
			return -E2BIG;
		edu->log_range[edu->log_ranges].first = node->start;
		edu->log_range[edu->log_ranges++].last = node->last;
		total += node->last - node->start + 1;
	}
	if (log_bytes && total > log_bytes)
		return -EOPNOTSUPP;
	*page_size = 1UL << log_shift;
	edu->logging = true;
	return 0;
}

static int edu_log_start(struct vfio_device *device, struct rb_root_cached *ranges, u32 count, u64 *page_size)
{
	struct edu_device *edu = edu_of(device);
	int error;

	edu_lock(edu);
	error = start_log(edu, ranges, count, page_size);
	edu_unlock(edu);
	return error;
}

static int edu_log_stop(struct vfio_device *device)
{
	struct edu_device *edu = edu_of(device);

	edu_lock(edu);
	edu_log_end(edu);
	edu_unlock(edu);
	return 0;
}

static int edu_log_read_and_clear(struct vfio_device *device, unsigned long iova, unsigned long length, struct iova_bitmap *dirty)
{
	struct edu_device *edu = edu_of(device);
	unsigned long page;
	void *entry;
	int error = 0;

	edu_lock(edu);
	if (!edu->logging) {
		error = -EINVAL;
	} else {
		if (edu->writing) {
			/* Asked before it is marked: what ends in between is marked once more the next time. */
			bool goes_on = edu_is_transferring(edu);

			mark(edu, edu->writing_first, edu->writing_last);
			edu->writing = goes_on;
		}
		if (edu->log_lost)
			error = -ENOMEM;
		else
			xa_for_each_range(&edu->log_pages, page, entry, iova >> log_shift, (iova + length - 1) >> log_shift) {
				iova_bitmap_set(dirty, page << log_shift, 1UL << log_shift);
				xa_erase(&edu->log_pages, page);
			}
	}
	edu_unlock(edu);
	return error;
}

const struct vfio_log_ops edu_log_ops = {
	.log_start = edu_log_start,
	.log_stop = edu_log_stop,
	.log_read_and_clear = edu_log_read_and_clear,
};
