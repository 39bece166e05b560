/*
 * A user-space driver of the educational device (QEMU documentation, "EDU device") on VFIO (linux/vfio.h, type 1): everything that the
 * documentation says it does, with its DMA behind an IOMMU.
 *
 *   edu-driver PCI-ADDRESS GROUP [forbidden]
 *
 * With the last word it also asks for transfers that the IOMMU does not allow.
 *
 * Prints a line per check; the first that does not hold ends it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	IDENTIFICATION = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, INTERRUPT_STATUS = 0x24, RAISE = 0x60, ACKNOWLEDGE = 0x64,
	DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98,
};
enum { COMPUTING = 0x01, INTERRUPT_WHEN_DONE = 0x80, FACTORIAL_DONE = 0x001, DMA_DONE = 0x100 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, DMA_INTERRUPT = 4 };

#define BUFFER 0x40000UL	/* the device's own, in the address space of its DMA engine */
#define PAGE 4096UL
#define IOVA 0x0ab00000UL	/* what the device is told, within its 28 bits; nothing of the guest's RAM is used at it */
#define PAGES 16UL
#define PATIENCE_MS 60000

static volatile uint8_t *bar;
static int container, group, device;

#define CHECK(condition, ...) check(!!(condition), #condition, __LINE__, __VA_ARGS__)

static void check(int holds, const char *condition, int line, const char *what, ...)
{
	if (holds && what == NULL)
		return;
	printf("lab:   %s  %s", holds ? "ok" : "NOT", what ? what : condition);
	if (!holds)
		printf(" (line %d: %s, errno %s)", line, condition, strerror(errno));
	printf("\n");
	fflush(stdout);
	if (!holds)
		exit(1);
}

static uint32_t read32(unsigned at) { return *(volatile uint32_t *)(bar + at); }
static void write32(unsigned at, uint32_t value) { *(volatile uint32_t *)(bar + at) = value; }
static void write64(unsigned at, uint64_t value) { *(volatile uint64_t *)(bar + at) = value; }

static void set_irq(uint32_t index, uint32_t flags, uint32_t count, int fd)
{
	struct { struct vfio_irq_set set; int fd; } request = {
		.set = { .argsz = sizeof(request.set) + (fd >= 0 ? sizeof(fd) : 0), .flags = flags, .index = index, .start = 0, .count = count },
		.fd = fd,
	};
	CHECK(ioctl(device, VFIO_DEVICE_SET_IRQS, &request) == 0, NULL);
}

/* Waits for one interrupt. */
static int interrupted(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	uint64_t count;
	return poll(&wait, 1, PATIENCE_MS) == 1 && read(fd, &count, sizeof(count)) == sizeof(count) && count >= 1;
}

static int quiet(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	return poll(&wait, 1, 0) == 0;
}

static void map(void *memory, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map request = { .argsz = sizeof(request), .flags = flags, .vaddr = (uintptr_t)memory, .iova = iova, .size = size };
	CHECK(ioctl(container, VFIO_IOMMU_MAP_DMA, &request) == 0, NULL);
}

static void unmap(uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap request = { .argsz = sizeof(request), .iova = iova, .size = size };
	CHECK(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request) == 0, NULL);
	CHECK(request.size == size, NULL);
}

static void start_dma(uint64_t source, uint64_t destination, uint64_t count, uint32_t command)
{
	write64(DMA_SOURCE, source);
	write64(DMA_DESTINATION, destination);
	write64(DMA_COUNT, count);
	write64(DMA_COMMAND, DMA_START | command);
}

static void finish_dma(void)
{
	for (int i = 0; i < PATIENCE_MS && (read32(DMA_COMMAND) & DMA_START); i++)
		usleep(1000);
	CHECK(!(read32(DMA_COMMAND) & DMA_START), NULL);
}

static void attach(const char *address, const char *group_number)
{
	char path[64];
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_BAR0_REGION_INDEX };
	struct vfio_region_info config = { .argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint16_t ids[2], command;

	snprintf(path, sizeof(path), "/dev/vfio/%s", group_number);
	CHECK((container = open("/dev/vfio/vfio", O_RDWR)) >= 0, NULL);
	CHECK(ioctl(container, VFIO_GET_API_VERSION) == VFIO_API_VERSION, NULL);
	CHECK((group = open(path, O_RDWR)) >= 0, NULL);
	CHECK(ioctl(group, VFIO_GROUP_GET_STATUS, &status) == 0 && (status.flags & VFIO_GROUP_FLAGS_VIABLE), NULL);
	CHECK(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, NULL);
	CHECK(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, NULL);
	CHECK((device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address)) >= 0, "attached through VFIO");
	CHECK(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) == 0, NULL);
	CHECK(pread(device, ids, sizeof(ids), config.offset) == sizeof(ids) && ids[0] == 0x1234 && ids[1] == 0x11e8, NULL);
	CHECK(pread(device, &command, 2, config.offset + 4) == 2, NULL);
	command |= 0x6; /* memory space, bus master */
	CHECK(pwrite(device, &command, 2, config.offset + 4) == 2, NULL);
	CHECK(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0 && region.size == 1 << 20, NULL);
	bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
	CHECK(bar != MAP_FAILED, "its registers are mapped");
}

static void registers(void)
{
	CHECK(read32(IDENTIFICATION) == 0x010000ed, "identification");
	for (uint32_t value = 1; value != 0; value <<= 1) {
		write32(LIVENESS, value);
		CHECK(read32(LIVENESS) == ~value, NULL);
	}
	CHECK(1, "liveness inverts every bit");
	static const uint32_t cases[][2] = { { 0, 1 }, { 1, 1 }, { 5, 120 }, { 12, 479001600 }, { 13, 1932053504 }, { 20, 2192834560u } };
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write32(FACTORIAL, cases[i][0]);
		for (int tries = 0; tries < PATIENCE_MS && (read32(STATUS) & COMPUTING); tries++)
			usleep(1000);
		CHECK(!(read32(STATUS) & COMPUTING) && read32(FACTORIAL) == cases[i][1], NULL);
	}
	CHECK(1, "factorials, modulo 2^32");
}

static void message_interrupts(int fd)
{
	set_irq(VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd);
	write32(RAISE, 0x12345678);
	CHECK(interrupted(fd), "MSI when asked for");
	CHECK(read32(INTERRUPT_STATUS) == 0x12345678, NULL);
	write32(ACKNOWLEDGE, 0x12345678);
	CHECK(read32(INTERRUPT_STATUS) == 0, NULL);
	write32(STATUS, INTERRUPT_WHEN_DONE);
	write32(FACTORIAL, 10);
	CHECK(interrupted(fd), "MSI when a factorial is done");
	CHECK(read32(INTERRUPT_STATUS) == FACTORIAL_DONE && read32(FACTORIAL) == 3628800, NULL);
	write32(ACKNOWLEDGE, FACTORIAL_DONE);
	write32(STATUS, 0);
	write32(FACTORIAL, 3);
	while (read32(STATUS) & COMPUTING)
		;
	CHECK(read32(INTERRUPT_STATUS) == 0 && quiet(fd), "none when not asked for");
}

static void pin_interrupts(int fd)
{
	set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd);
	for (int i = 0; i < 3; i++) {
		write32(RAISE, 1);
		CHECK(interrupted(fd), NULL);
		write32(ACKNOWLEDGE, 1);
		CHECK(quiet(fd), NULL); /* VFIO has masked the pin */
		set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 1, -1);
	}
	CHECK(1, "the interrupt pin, three times");
	set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1);
}

static void dma(uint8_t *memory, int fd)
{
	/* Each page goes through the device into another one: data, address and length are all its own. */
	map(memory, IOVA, PAGES * PAGE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	for (unsigned page = 0; page < PAGES / 2; page++) {
		uint8_t *from = memory + page * PAGE, *to = memory + (PAGES / 2 + page) * PAGE;
		uint64_t skip = page * 16, length = PAGE - 2 * skip;
		for (unsigned i = 0; i < PAGE; i++)
			from[i] = (uint8_t)(i * 7 + (i >> 8) + page * 31);
		memset(to, 0xcc, PAGE);
		start_dma(IOVA + page * PAGE + skip, BUFFER + skip, length, DMA_INTERRUPT);
		CHECK(interrupted(fd), NULL);
		CHECK(read32(INTERRUPT_STATUS) == DMA_DONE, NULL);
		write32(ACKNOWLEDGE, DMA_DONE);
		finish_dma();
		start_dma(BUFFER + skip, IOVA + (PAGES / 2 + page) * PAGE + skip, length, DMA_TO_MEMORY | DMA_INTERRUPT);
		CHECK(interrupted(fd), NULL);
		write32(ACKNOWLEDGE, DMA_DONE);
		finish_dma();
		CHECK(memcmp(to + skip, from + skip, length) == 0, NULL);
		for (unsigned i = 0; i < skip; i++)
			CHECK(to[i] == 0xcc && to[PAGE - 1 - i] == 0xcc, NULL);
	}
	CHECK(1, "DMA in both directions, each with its interrupt");
	unmap(IOVA, PAGES * PAGE);
}

/* What the IOMMU does not let through does not happen: after an unmap, and where the mapping is for reading only. */
static void forbidden(uint8_t *memory)
{
	memset(memory, 0x55, PAGE);
	map(memory, IOVA, PAGE, VFIO_DMA_MAP_FLAG_READ);
	start_dma(BUFFER, IOVA, PAGE, DMA_TO_MEMORY);
	finish_dma();
	for (unsigned i = 0; i < PAGE; i++)
		CHECK(memory[i] == 0x55, NULL);
	CHECK(1, "a read-only page is not written");
	unmap(IOVA, PAGE);
	start_dma(BUFFER, IOVA, PAGE, DMA_TO_MEMORY);
	finish_dma();
	for (unsigned i = 0; i < PAGE; i++)
		CHECK(memory[i] == 0x55, NULL);
	CHECK(1, "a page that was unmapped is out of reach");
}

/* The same address leads to another page each time: nothing stale is used. */
static void remapping(uint8_t *memory, unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		uint8_t *page = memory + (round % PAGES) * PAGE;
		map(page, IOVA, PAGE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
		memset(page, (int)round + 1, PAGE);
		start_dma(IOVA, BUFFER, PAGE, 0);
		finish_dma();
		memset(page, 0, PAGE);
		start_dma(BUFFER, IOVA, PAGE, DMA_TO_MEMORY);
		finish_dma();
		for (unsigned i = 0; i < PAGE; i++)
			CHECK(page[i] == (uint8_t)(round + 1), NULL);
		unmap(IOVA, PAGE);
	}
	CHECK(1, "one address mapped to another page again and again");
}

int main(int argc, char **argv)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint8_t *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK((argc == 3 || (argc == 4 && strcmp(argv[3], "forbidden") == 0)) && fd >= 0 && memory != MAP_FAILED, NULL);
	attach(argv[1], argv[2]);
	registers();
	pin_interrupts(fd);
	message_interrupts(fd);
	dma(memory, fd);
	remapping(memory, 16);
	CHECK(ioctl(device, VFIO_DEVICE_RESET) == 0 || errno == EINVAL || errno == ENOTTY, NULL);
	CHECK(read32(IDENTIFICATION) == 0x010000ed, NULL);
	if (argc == 4)
		forbidden(memory);
	return 0;
}
