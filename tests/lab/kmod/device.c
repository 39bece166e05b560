// SPDX-License-Identifier: GPL-2.0
/* The driver's ends towards PCI and VFIO. See edu_vfio.h. */
#include <linux/module.h>
#include "edu_vfio.h"

unsigned long edu_dma_mask = (1UL << 28) - 1;
module_param_named(dma_mask, edu_dma_mask, ulong, 0444);
MODULE_PARM_DESC(dma_mask, "address bits that the device puts out (QEMU's property dma_mask)");

static bool no_log;
module_param(no_log, bool, 0444);
MODULE_PARM_DESC(no_log, "the device cannot log its DMA");

void edu_lock(struct edu_device *edu)
{
	mutex_lock(&edu->lock);
}

static void edu_power_on_state(struct edu_device *edu)
{
	edu_close_stream(edu);
	edu->state = VFIO_DEVICE_STATE_RUNNING;
	memset(&edu->dma, 0, sizeof(edu->dma));
	edu->held = false;
	edu->interrupts = 0;
	edu->factorial_moved = false;
}

/*
 * A reset comes with vfio-pci-core's memory_lock held, which elsewhere is taken inside of ours. So it only leaves a note when it cannot have the
 * lock at once, and whoever has it acts on the note.
 */
void edu_unlock(struct edu_device *edu)
{
	for (;;) {
		spin_lock(&edu->reset_lock);
		if (!edu->was_reset)
			break;
		edu->was_reset = false;
		spin_unlock(&edu->reset_lock);
		edu_power_on_state(edu);
	}
	mutex_unlock(&edu->lock);
	spin_unlock(&edu->reset_lock);
}

static void edu_reset_done(struct pci_dev *pdev)
{
	struct edu_device *edu = dev_get_drvdata(&pdev->dev);

	spin_lock(&edu->reset_lock);
	edu->was_reset = true;
	if (!mutex_trylock(&edu->lock)) {
		spin_unlock(&edu->reset_lock);
		return;
	}
	spin_unlock(&edu->reset_lock);
	edu_unlock(edu);
}

static int edu_init(struct vfio_device *device)
{
	struct edu_device *edu = edu_of(device);

	mutex_init(&edu->lock);
	spin_lock_init(&edu->reset_lock);
	xa_init(&edu->log_pages);
	device->migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
	device->mig_ops = &edu_migration_ops;
	if (!no_log)
		device->log_ops = &edu_log_ops;
	return vfio_pci_core_init_dev(device);
}

static int edu_open(struct vfio_device *device)
{
	struct edu_device *edu = edu_of(device);
	int error = vfio_pci_core_enable(&edu->core);

	if (error)
		return error;
	if (IS_ERR_OR_NULL(edu->core.barmap[0])) {
		vfio_pci_core_disable(&edu->core);
		return -ENODEV;
	}
	edu_lock(edu);
	edu->writing = false;
	edu_power_on_state(edu);
	edu_unlock(edu);
	vfio_pci_core_finish_enable(&edu->core);
	return 0;
}

static void edu_close(struct vfio_device *device)
{
	struct edu_device *edu = edu_of(device);

	edu_lock(edu);
	edu_close_stream(edu);
	edu_log_end(edu);
	edu_unlock(edu);
	vfio_pci_core_close_device(device);
}

static int edu_get_region_info(struct vfio_device *device, struct vfio_region_info *info, struct vfio_info_cap *caps)
{
	int error = vfio_pci_ioctl_get_region_info(device, info, caps);

	if (!error && info->index == VFIO_PCI_BAR0_REGION_INDEX)
		info->flags &= ~VFIO_REGION_INFO_FLAG_MMAP;
	return error;
}

static int edu_mmap(struct vfio_device *device, struct vm_area_struct *vma)
{
	if (vma->vm_pgoff >> (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT) == VFIO_PCI_BAR0_REGION_INDEX)
		return -EINVAL;
	return vfio_pci_core_mmap(device, vma);
}

static const struct vfio_device_ops edu_ops = {
	.name = "edu-vfio",
	.init = edu_init,
	.release = vfio_pci_core_release_dev,
	.open_device = edu_open,
	.close_device = edu_close,
	.ioctl = vfio_pci_core_ioctl,
	.get_region_info_caps = edu_get_region_info,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = edu_read,
	.write = edu_write,
	.mmap = edu_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu_device *edu = vfio_alloc_device(edu_device, core.vdev, &pdev->dev, &edu_ops);
	int error;

	if (IS_ERR(edu))
		return PTR_ERR(edu);
	dev_set_drvdata(&pdev->dev, &edu->core);
	error = vfio_pci_core_register_device(&edu->core);
	if (error)
		vfio_put_device(&edu->core.vdev);
	return error;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu_device *edu = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(&edu->core);
	vfio_put_device(&edu->core.vdev);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static const struct pci_error_handlers edu_error_handlers = {
	.reset_done = edu_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
};

static struct pci_driver edu_driver = {
	.name = "edu-vfio",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.err_handler = &edu_error_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(edu_driver);

static_assert(offsetof(struct edu_device, core) == 0);	/* vfio-pci-core finds its device in the driver's data */

MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("IOMMUFD");	/* iova_bitmap_set */
MODULE_DESCRIPTION("VFIO for QEMU's educational device, with migration and a log of its DMA");
