using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>BARs of a vfio-user device that offers its memory.</summary>
public sealed class MappedBarTests : IDisposable
{
    private const ulong Bytes = 0x4000;

    private readonly MemFd _file = MemFd.Create("bar", Bytes);

    public void Dispose() => _file.Dispose();

    [Fact]
    public void Accesses_of_the_guest_are_no_messages_until_the_device_goes()
    {
        using var memory = MemoryMapping.MapShared(_file, 0, Bytes, writable: true);
        using var machine = new PassthroughMachine(Offering(_file), configure: o => o with { MapBars = true });
        machine.Boot();
        // The device itself refuses everything behind its registers, so what works there is no message.
        foreach (int size in (int[])[1, 2, 4, 8])
        {
            machine.Write(0x1000, 0x8877_6655_4433_2211, size);
            Assert.Equal(0x8877_6655_4433_2211 & (ulong.MaxValue >> (64 - size * 8)), machine.Read(0x1000, size));
        }

        Assert.Equal(0x8877_6655_4433_2211, Word(memory, 0x1000));
        // Its MSI-X table is the VMM's, and not in that memory.
        Assert.Equal(0x40UL, machine.Read(DmaTestDevice.TableOffset + 8, 4));
        Assert.Equal(0UL, Word(memory, DmaTestDevice.TableOffset + 8));
        Assert.Empty(machine.Notices);
        machine.KillDevice();
        machine.AwaitLoss();
        Assert.Equal(ulong.MaxValue, machine.Read(0x1000));
        machine.Write(0x1000, 1);
        Assert.Equal(0x8877_6655_4433_2211, Word(memory, 0x1000));
    }

    [Fact]
    public void A_file_that_its_owner_can_cut_short_is_not_mapped()
    {
        string path = Path.Combine(Path.GetTempPath(), $"gwbar{Guid.NewGuid():n}");
        using (FileStream stream = File.Create(path))
            stream.SetLength((long)Bytes);
        try
        {
            Assert.Equal(Errno.None, LinuxKernelCalls.Instance.Open(path, out FileDescriptor? opened));
            using FileDescriptor file = opened!;
            using var machine = new PassthroughMachine(Offering(file), configure: o => o with { MapBars = true });
            machine.Boot();
            machine.Write(DmaTestDevice.ScratchRegister, 0x77);
            Assert.Equal(0x77UL, machine.Read(DmaTestDevice.ScratchRegister)); // by message
            Assert.Contains("sealed", Assert.Single(machine.Notices), StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_file_shorter_than_its_region_is_not_mapped()
    {
        using MemFd part = MemFd.Create("part", Bytes / 4);
        using var machine = new PassthroughMachine(Offering(part), configure: o => o with { MapBars = true });
        Assert.Contains("as long as what it offers", Assert.Single(machine.Notices), StringComparison.Ordinal);
    }

    [Fact]
    public void A_page_with_doorbells_is_left_out_so_that_they_ring()
    {
        using var memory = MemoryMapping.MapShared(_file, 0, Bytes, writable: true);
        using var machine = new PassthroughMachine(Offering(_file, new DoorbellRange(0x3010, 2)), configure: o => o with { MapBars = true });
        machine.Boot();
        machine.Write(0x1000, 0x55, 4);
        Assert.Equal(0x55UL, Word(memory, 0x1000));
        machine.Write(0x3010, 0x66, 4);
        machine.Write(0x3018, 0x77, 4); // beside them, on the same page
        Assert.Equal((0UL, 0UL), (Word(memory, 0x3010), Word(memory, 0x3018)));
    }

    [Fact]
    public void Without_being_asked_nothing_is_mapped()
    {
        using var machine = new PassthroughMachine(Offering(_file));
        machine.Boot();
        Assert.Equal(0xFFFF_FFFFUL, machine.Read(0x1000, 4));
    }

    private static unsafe ulong Word(MemoryMapping memory, ulong offset) => *(ulong*)(memory.Address + offset);

    private static DmaTestDevice Offering(FileDescriptor file, params DoorbellRange[] doorbells)
    {
        var device = new DmaTestDevice();
        return new DmaTestDevice
        {
            Description = device.Description with
            {
                Regions = new Dictionary<int, DeviceRegion>(device.Description.Regions) { [PciRegion.Bar0] = new(Bytes, file, [new SparseArea(0x1000, 0x3000)], doorbells) },
            },
        };
    }
}
