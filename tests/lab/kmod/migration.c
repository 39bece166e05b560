// SPDX-License-Identifier: GPL-2.0
/* States and streams (linux/vfio.h, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE). See edu_vfio.h. */
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include "edu_vfio.h"

#define STREAM_MAGIC	0x6f696676756465ULL	/* "eduvfio" */
#define STREAM_VERSION	1
#define PATIENCE_MS	10000			/* the hardware takes a tenth of a second for a transfer */

/* What a destination can know while the source still runs: whether it can take the rest. */
struct stream_head {
	u64 magic;
	u64 version;
	u64 dma_mask;
};

struct stream_body {
	struct edu_dma dma;	/* with EDU_DMA_START: a transfer that has not begun */
	u32 liveness;
	u32 factorial;
	u32 status;
	u32 interrupts;
	u8 buffer[EDU_BUFFER_BYTES];
};

struct edu_stream {
	struct edu_device *edu;
	struct file *file;
	struct mutex lock;	/* all that follows */
	bool live;		/* the device is still in the state that the stream belongs to */
	bool precopy;		/* and that is a pre-copy state */
	size_t length;
	size_t position;
	u8 data[sizeof(struct stream_head) + sizeof(struct stream_body)];
};

/* The hardware, for the driver itself: memory and bus mastering on whatever the guest has left them, and nobody else at it. */
static u16 take_hardware(struct edu_device *edu)
{
	u16 command;

	down_write(&edu->core.memory_lock);
	pci_read_config_word(edu->core.pdev, PCI_COMMAND, &command);
	pci_write_config_word(edu->core.pdev, PCI_COMMAND, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	return command;
}

static void give_hardware(struct edu_device *edu, u16 command)
{
	pci_write_config_word(edu->core.pdev, PCI_COMMAND, command);
	up_write(&edu->core.memory_lock);
}

static int wait_idle(void __iomem *registers)
{
	int waited;

	for (waited = 0; waited < PATIENCE_MS; waited++) {
		if (!(ioread32(registers + EDU_DMA_COMMAND) & EDU_DMA_START) && !(ioread32(registers + EDU_STATUS) & EDU_STATUS_COMPUTING))
			return 0;
		usleep_range(1000, 2000);
	}
	return -ETIMEDOUT;
}

/* Until the device does nothing any more on its own. */
static int quiesce(struct edu_device *edu)
{
	u16 command = take_hardware(edu);
	int error = wait_idle(edu->core.barmap[0]);

	give_hardware(edu, command);
	return error;
}

/*
 * The device's buffer can be reached by its DMA engine only, and that goes through the page table that belongs to user space. While the device is
 * stopped a page of ours is mapped there at an address that nothing is mapped at. Whoever maps in that moment at that place gets an error.
 */
static int move_buffer(struct edu_device *edu, u8 *buffer, bool out)
{
	void __iomem *registers = edu->core.barmap[0];
	struct iommu_domain *domain = iommu_get_domain_for_dev(&edu->core.pdev->dev);
	struct page *page;
	unsigned long iova;
	int error;

	if (!domain)
		return -ENODEV;
	for (iova = edu_dma_mask & PAGE_MASK; iova && iommu_iova_to_phys(domain, iova); iova -= PAGE_SIZE)
		;
	if (!iova)
		return -ENOSPC;
	page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!page)
		return -ENOMEM;
	if (!out)
		memcpy(page_address(page), buffer, EDU_BUFFER_BYTES);
	error = iommu_map(domain, iova, page_to_phys(page), PAGE_SIZE, IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE, GFP_KERNEL);
	if (!error) {
		writeq(out ? EDU_BUFFER : iova, registers + EDU_DMA_SOURCE);
		writeq(out ? iova : EDU_BUFFER, registers + EDU_DMA_DESTINATION);
		writeq(EDU_BUFFER_BYTES, registers + EDU_DMA_COUNT);
		writeq(EDU_DMA_START | (out ? EDU_DMA_TO_MEMORY : 0), registers + EDU_DMA_COMMAND);
		error = wait_idle(registers);
		iommu_unmap(domain, iova, PAGE_SIZE);
		if (!error && out)
			memcpy(buffer, page_address(page), EDU_BUFFER_BYTES);
	}
	__free_page(page);
	return error;
}

static int save(struct edu_device *edu, struct stream_body *body)
{
	void __iomem *registers = edu->core.barmap[0];
	u16 command = take_hardware(edu);
	int error;

	body->dma = edu->dma;
	body->dma.command &= ~(u64)EDU_DMA_START;
	if (edu->held)
		body->dma.command |= EDU_DMA_START;
	body->liveness = ioread32(registers + EDU_LIVENESS);
	body->factorial = edu->factorial_moved ? edu->factorial : ioread32(registers + EDU_FACTORIAL);
	body->status = ioread32(registers + EDU_STATUS);
	body->interrupts = ioread32(registers + EDU_INTERRUPTS) | edu->interrupts;
	error = move_buffer(edu, body->buffer, true);
	give_hardware(edu, command);
	return error;
}

static int load(struct edu_device *edu, struct stream_body *body)
{
	void __iomem *registers = edu->core.barmap[0];
	u16 command = take_hardware(edu);
	int error = wait_idle(registers);

	if (!error)
		error = move_buffer(edu, body->buffer, false);
	if (!error) {
		iowrite32(~body->liveness, registers + EDU_LIVENESS);
		iowrite32(body->status & ~EDU_STATUS_COMPUTING, registers + EDU_STATUS);
		iowrite32(~0U, registers + EDU_ACKNOWLEDGE);
		edu->dma = body->dma;
		edu->held = body->dma.command & EDU_DMA_START;
		edu->factorial = body->factorial;
		edu->factorial_moved = true;
		edu->interrupts = body->interrupts;
	}
	give_hardware(edu, command);
	return error;
}

static ssize_t stream_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
	struct edu_stream *stream = file->private_data;
	ssize_t done;

	if (position)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	done = min(count, stream->length - stream->position);
	if (!stream->live)
		done = -ENODEV;
	else if (!done && count && stream->precopy)
		done = -ENOMSG;
	else if (copy_to_user(buffer, stream->data + stream->position, done))
		done = -EFAULT;
	else
		stream->position += done;
	mutex_unlock(&stream->lock);
	return done;
}

static ssize_t stream_write(struct file *file, const char __user *buffer, size_t count, loff_t *position)
{
	struct edu_stream *stream = file->private_data;
	ssize_t done = count;

	if (position)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	if (!stream->live)
		done = -ENODEV;
	else if (count > sizeof(stream->data) - stream->length)
		done = -EINVAL;
	else if (copy_from_user(stream->data + stream->length, buffer, count))
		done = -EFAULT;
	else
		stream->length += count;
	mutex_unlock(&stream->lock);
	return done;
}

static long stream_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct edu_stream *stream = file->private_data;
	struct vfio_precopy_info info;
	int error = vfio_check_precopy_ioctl(&stream->edu->core.vdev, command, argument, &info);

	if (error)
		return error;
	mutex_lock(&stream->lock);
	if (!stream->live)
		error = -ENODEV;
	else if (!stream->precopy)
		error = -EINVAL;
	info.initial_bytes = stream->length - stream->position;
	info.dirty_bytes = 0;
	mutex_unlock(&stream->lock);
	if (!error && copy_to_user((void __user *)argument, &info, offsetofend(struct vfio_precopy_info, dirty_bytes)))
		error = -EFAULT;
	return error;
}

static int stream_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations saving_operations = {
	.owner = THIS_MODULE,
	.read = stream_read,
	.unlocked_ioctl = stream_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = stream_release,
};

static const struct file_operations resuming_operations = {
	.owner = THIS_MODULE,
	.write = stream_write,
	.release = stream_release,
};

/* The device has one reference to the stream, user space another. */
static struct edu_stream *open_stream(struct edu_device *edu, bool resuming)
{
	struct edu_stream *stream = kzalloc(sizeof(*stream), GFP_KERNEL_ACCOUNT);
	struct file *file;

	if (!stream)
		return ERR_PTR(-ENOMEM);
	mutex_init(&stream->lock);
	stream->edu = edu;
	stream->live = true;
	file = anon_inode_getfile("edu-vfio-stream", resuming ? &resuming_operations : &saving_operations, stream, resuming ? O_WRONLY : O_RDONLY);
	if (IS_ERR(file)) {
		kfree(stream);
		return ERR_CAST(file);
	}
	stream_open(file->f_inode, file);
	stream->file = file;
	if (!resuming) {
		struct stream_head head = { STREAM_MAGIC, STREAM_VERSION, edu_dma_mask };

		memcpy(stream->data, &head, sizeof(head));
		stream->length = sizeof(head);
	}
	get_file(file);
	edu->stream = stream;
	return stream;
}

void edu_close_stream(struct edu_device *edu)
{
	struct edu_stream *stream = edu->stream;

	if (!stream)
		return;
	edu->stream = NULL;
	mutex_lock(&stream->lock);
	stream->live = false;
	mutex_unlock(&stream->lock);
	fput(stream->file);
}

static int append_body(struct edu_device *edu)
{
	struct edu_stream *stream = edu->stream;
	int error;

	mutex_lock(&stream->lock);
	error = save(edu, (struct stream_body *)(stream->data + sizeof(struct stream_head)));
	if (!error) {
		stream->length = sizeof(stream->data);
		stream->precopy = false;
	}
	mutex_unlock(&stream->lock);
	return error;
}

static int take_stream(struct edu_device *edu)
{
	struct edu_stream *stream = edu->stream;
	struct stream_head *head = (struct stream_head *)stream->data;
	int error = -EINVAL;

	mutex_lock(&stream->lock);
	if (!stream->length)
		error = 0;	/* nothing was delivered, so the device stays what it was */
	else if (stream->length == sizeof(stream->data) && head->magic == STREAM_MAGIC && head->version == STREAM_VERSION && head->dma_mask == edu_dma_mask)
		error = load(edu, (struct stream_body *)(head + 1));
	mutex_unlock(&stream->lock);
	return error;
}

#define ARC(from, to) ((from) << 8 | (to))

/* One arc; a stream for user space if it opens one, else NULL. */
static struct file *step(struct edu_device *edu, enum vfio_device_mig_state to)
{
	struct edu_stream *stream = NULL;
	int error = 0;

	switch (ARC(edu->state, to)) {
	case ARC(VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P):
	case ARC(VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P):
		error = quiesce(edu);
		break;
	case ARC(VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING):
	case ARC(VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY):
		if (edu->held) {
			edu->held = false;
			edu_start_transfer(edu);
		}
		break;
	case ARC(VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP):
	case ARC(VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING_P2P):
		break;
	case ARC(VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY):
	case ARC(VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P):
		stream = open_stream(edu, false);
		if (!IS_ERR(stream))
			stream->precopy = true;
		break;
	case ARC(VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_RUNNING):
	case ARC(VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_RUNNING_P2P):
	case ARC(VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP):
		edu_close_stream(edu);
		break;
	case ARC(VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_STOP_COPY):
		error = append_body(edu);
		break;
	case ARC(VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY):
		stream = open_stream(edu, false);
		if (!IS_ERR(stream))
			error = append_body(edu);
		break;
	case ARC(VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RESUMING):
		stream = open_stream(edu, true);
		break;
	case ARC(VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP):
		error = take_stream(edu);
		if (!error)
			edu_close_stream(edu);
		break;
	default:
		error = -EINVAL;
	}
	if (IS_ERR(stream))
		return ERR_CAST(stream);
	if (error) {
		if (stream) {
			fput(stream->file);
			edu_close_stream(edu);
		}
		return ERR_PTR(error);
	}
	edu->state = to;
	return stream ? stream->file : NULL;
}

static struct file *edu_set_state(struct vfio_device *device, enum vfio_device_mig_state wanted)
{
	struct edu_device *edu = edu_of(device);
	struct file *file = NULL;

	edu_lock(edu);
	while (edu->state != wanted) {
		enum vfio_device_mig_state next;
		int error = vfio_mig_get_next_state(device, edu->state, wanted, &next);

		file = error ? ERR_PTR(error) : step(edu, next);
		if (IS_ERR(file))
			break;
		if (WARN_ON(file && wanted != edu->state)) {
			fput(file);
			file = ERR_PTR(-EINVAL);
			break;
		}
	}
	edu_unlock(edu);
	return file;
}

static int edu_get_state(struct vfio_device *device, enum vfio_device_mig_state *state)
{
	struct edu_device *edu = edu_of(device);

	edu_lock(edu);
	*state = edu->state;
	edu_unlock(edu);
	return 0;
}

static int edu_get_data_size(struct vfio_device *device, unsigned long *bytes)
{
	*bytes = sizeof(struct stream_head) + sizeof(struct stream_body);
	return 0;
}

const struct vfio_migration_ops edu_migration_ops = {
	.migration_set_state = edu_set_state,
	.migration_get_state = edu_get_state,
	.migration_get_data_size = edu_get_data_size,
};
