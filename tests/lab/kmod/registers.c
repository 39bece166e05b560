// SPDX-License-Identifier: GPL-2.0
/* BAR 0 as the guest sees it. See edu_vfio.h. */
#include <linux/io.h>
#include "edu_vfio.h"

static void __iomem *at(struct edu_device *edu, u32 offset)
{
	return edu->core.barmap[VFIO_PCI_BAR0_REGION_INDEX] + offset;
}

/* Whether the hardware's engine works, which it is taken to do when it cannot be asked. */
bool edu_is_transferring(struct edu_device *edu)
{
	u32 command;

	return vfio_pci_core_ioread32(&edu->core, true, &command, at(edu, EDU_DMA_COMMAND)) || (command & EDU_DMA_START);
}

/* Gives the hardware what the guest has programmed. */
void edu_start_transfer(struct edu_device *edu)
{
	edu_log_transfer(edu);
	writeq(edu->dma.source, at(edu, EDU_DMA_SOURCE));
	writeq(edu->dma.destination, at(edu, EDU_DMA_DESTINATION));
	writeq(edu->dma.count, at(edu, EDU_DMA_COUNT));
	writeq(edu->dma.command, at(edu, EDU_DMA_COMMAND));
}

static bool may_transfer(struct edu_device *edu)
{
	return edu->state == VFIO_DEVICE_STATE_RUNNING || edu->state == VFIO_DEVICE_STATE_PRE_COPY;
}

static int read_register(struct edu_device *edu, u32 offset, u32 size, u64 *value)
{
	u32 low;
	int error = 0;

	switch (offset) {
	case EDU_DMA_SOURCE:
		*value = edu->dma.source;
		return 0;
	case EDU_DMA_DESTINATION:
		*value = edu->dma.destination;
		return 0;
	case EDU_DMA_COUNT:
		*value = edu->dma.count;
		return 0;
	case EDU_DMA_COMMAND:
		*value = edu->dma.command & ~(u64)EDU_DMA_START;
		if (edu->held || edu_is_transferring(edu))
			*value |= EDU_DMA_START;
		return 0;
	}
	*value = ~0ULL;
	if (size != 4)
		return 0;
	error = vfio_pci_core_ioread32(&edu->core, true, &low, at(edu, offset));
	*value = low;
	if (offset == EDU_FACTORIAL && edu->factorial_moved)
		*value = edu->factorial;
	else if (offset == EDU_INTERRUPTS)
		*value |= edu->interrupts;
	return error;
}

static int write_register(struct edu_device *edu, u32 offset, u32 size, u64 value)
{
	bool busy;

	if (offset < EDU_WIDE_FROM) {
		if (size != 4)
			return 0;
		if (offset == EDU_FACTORIAL)
			edu->factorial_moved = false;
		else if (offset == EDU_ACKNOWLEDGE)
			edu->interrupts &= ~(u32)value;
		return vfio_pci_core_iowrite32(&edu->core, true, value, at(edu, offset));
	}
	busy = edu->held || edu_is_transferring(edu);
	if (busy)
		return 0;	/* as the hardware does */
	switch (offset) {
	case EDU_DMA_SOURCE:
		edu->dma.source = value;
		break;
	case EDU_DMA_DESTINATION:
		edu->dma.destination = value;
		break;
	case EDU_DMA_COUNT:
		edu->dma.count = value;
		break;
	case EDU_DMA_COMMAND:
		edu->dma.command = value;
		if (!(value & EDU_DMA_START))
			break;
		if (may_transfer(edu))
			edu_start_transfer(edu);
		else
			edu->held = true;
		break;
	}
	return 0;
}

/* One access of the guest may come as several registers; each has 4 or 8 bytes, aligned. */
static ssize_t access(struct edu_device *edu, char __user *buffer, size_t count, loff_t *position, bool write)
{
	u64 offset = *position & VFIO_PCI_OFFSET_MASK, value;
	size_t done = 0;

	if (offset >= pci_resource_len(edu->core.pdev, 0) || count > pci_resource_len(edu->core.pdev, 0) - offset)
		return -EINVAL;
	while (done < count) {
		u32 at = offset + done, left = count - done, size = 4;
		int error;

		if (at >= EDU_WIDE_FROM && IS_ALIGNED(at, 8) && left >= 8)
			size = 8;
		if (!IS_ALIGNED(at, 4) || left < 4)
			return -EINVAL;
		value = 0;
		if (write && copy_from_user(&value, buffer + done, size))
			return -EFAULT;
		edu_lock(edu);
		error = write ? write_register(edu, at, size, value) : read_register(edu, at, size, &value);
		edu_unlock(edu);
		if (error)
			return error;
		if (!write && copy_to_user(buffer + done, &value, size))
			return -EFAULT;
		done += size;
	}
	*position += done;
	return done;
}

ssize_t edu_read(struct vfio_device *device, char __user *buffer, size_t count, loff_t *position)
{
	if (VFIO_PCI_OFFSET_TO_INDEX(*position) != VFIO_PCI_BAR0_REGION_INDEX)
		return vfio_pci_core_read(device, buffer, count, position);
	return access(edu_of(device), buffer, count, position, false);
}

ssize_t edu_write(struct vfio_device *device, const char __user *buffer, size_t count, loff_t *position)
{
	if (VFIO_PCI_OFFSET_TO_INDEX(*position) != VFIO_PCI_BAR0_REGION_INDEX)
		return vfio_pci_core_write(device, buffer, count, position);
	return access(edu_of(device), (char __user *)buffer, count, position, true);
}
