/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VFIO driver for QEMU's educational device (QEMU documentation, "EDU device"), for tests: on top of the kernel's vfio-pci-core it gives a
 * device that really does DMA what only few devices have, migration by linux/vfio.h version 2 with pre-copy and P2P, and a log of its DMA.
 *
 * The device itself knows nothing of either. So its registers are not mapped; the driver sees every access, knows what is transferred
 * where, and keeps a transfer that is started while none may be until one may.
 */
#ifndef EDU_VFIO_H
#define EDU_VFIO_H

#include <linux/vfio_pci_core.h>

/* Registers in BAR 0. */
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define EDU_INTERRUPTS		0x24
#define EDU_ACKNOWLEDGE		0x64
#define EDU_LIVENESS		0x04
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_WIDE_FROM		EDU_DMA_SOURCE	/* accesses of 8 bytes from here on */

#define EDU_STATUS_COMPUTING	0x01
#define EDU_DMA_START		0x01
#define EDU_DMA_TO_MEMORY	0x02

/* The device's own buffer, in the address space of its DMA engine. */
#define EDU_BUFFER		0x40000
#define EDU_BUFFER_BYTES	4096

struct edu_dma {
	u64 source;
	u64 destination;
	u64 count;
	u64 command;
};

struct edu_stream;

struct edu_device {
	struct vfio_pci_core_device core;

	struct mutex lock;		/* all that follows, but reset_lock and was_reset */
	enum vfio_device_mig_state state;
	struct edu_stream *stream;	/* of the state that has one */

	/* What the guest knows and the hardware does not. */
	struct edu_dma dma;
	bool held;			/* a transfer waits for a state in which it may begin */
	u32 interrupts;			/* that were pending when the state was saved */
	u32 factorial;
	bool factorial_moved;

	/* The log. A transfer to memory counts as a write from its start until it has been seen ended by a report. */
	bool logging;
	bool log_lost;
	u32 log_ranges;
	struct { u64 first, last; } log_range[256];
	struct xarray log_pages;
	bool writing;
	u64 writing_first, writing_last;

	spinlock_t reset_lock;
	bool was_reset;
};

static inline struct edu_device *edu_of(struct vfio_device *device)
{
	return container_of(device, struct edu_device, core.vdev);
}

extern unsigned long edu_dma_mask;

void edu_lock(struct edu_device *edu);
void edu_unlock(struct edu_device *edu);

/* registers.c */
ssize_t edu_read(struct vfio_device *device, char __user *buffer, size_t count, loff_t *position);
ssize_t edu_write(struct vfio_device *device, const char __user *buffer, size_t count, loff_t *position);
void edu_start_transfer(struct edu_device *edu);
bool edu_is_transferring(struct edu_device *edu);

/* log.c */
extern const struct vfio_log_ops edu_log_ops;
void edu_log_transfer(struct edu_device *edu);
void edu_log_end(struct edu_device *edu);

/* migration.c */
extern const struct vfio_migration_ops edu_migration_ops;
void edu_close_stream(struct edu_device *edu);

#endif
