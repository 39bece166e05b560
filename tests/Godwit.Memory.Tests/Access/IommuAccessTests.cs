namespace Godwit.Memory.Tests.Access;

public sealed class IommuAccessTests : IDisposable
{
    private const ulong RamBase = 0x10_0000;
    private readonly GuestRam _ram = new();
    private readonly MemoryTopology _topology = new();
    private readonly RamBlock _block;
    private readonly TestIommu _iommu = new();
    private readonly AddressSpace _device;
    private readonly Dictionary<ulong, (ulong Page, AccessRights Rights)> _table = [];

    public IommuAccessTests()
    {
        _block = _ram.Add("ram", 2 << 20);
        _topology.Add(_topology.SystemRoot, new BusAddress(RamBase), new RamRegion("ram", _block));
        _device = _topology.CreateAddressSpace("device", _iommu);
        _iommu.UseTable(_table);
    }

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void Accesses_are_spliced_page_by_page()
    {
        Map(0x40, 3);
        Map(0x41, 9);
        Map(0x42, 1);
        byte[] data = [.. Enumerable.Range(0, 0x1800).Select(i => (byte)(i * 7))];
        Assert.Equal(MemoryResult.Ok, _device.Write(At(0x40_800), data, TransactionAttributes.Vmm));
        var back = new byte[data.Length];
        Assert.Equal(MemoryResult.Ok, _device.Read(At(0x40_800), back, TransactionAttributes.Vmm));
        Assert.Equal(data, back);
        var page = new byte[0x800];
        _block.Read(0x3800, page);
        Assert.Equal(data[..0x800], page);
        _block.Read(0x9000, page);
        Assert.Equal(data[0x800..0x1000], page);
    }

    [Fact]
    public void The_first_missing_page_stops_the_access()
    {
        Map(0x40, 3);
        Assert.Equal(MemoryResult.AccessError, _device.Write(At(0x40_FFF), [1, 2], TransactionAttributes.Vmm));
        var read = new byte[1];
        _block.Read(0x3FFF, read);
        Assert.Equal(1, read[0]);
    }

    [Fact]
    public void Rights_are_those_of_the_translation()
    {
        Map(0x1, 1, AccessRights.Read);
        Map(0x2, 2, AccessRights.Write);
        Assert.Equal(MemoryResult.Ok, _device.Read(At(0x1000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.AccessError, _device.Write(At(0x1000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.AccessError, _device.Read(At(0x2000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, _device.Write(At(0x2000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.AccessError, _device.CompareExchange(At(0x2000), 0, 1, out _, TransactionAttributes.Vmm));
        Map(0x3, 3);
        Assert.Equal(MemoryResult.Ok, _device.CompareExchange(At(0x3000), 0, 1, out _, TransactionAttributes.Vmm));
    }

    [Fact]
    public void The_model_is_told_what_is_wanted_and_by_whom()
    {
        var asked = new List<(Iova, AccessRights, ushort?)>();
        _iommu.OnTranslate = (iova, wanted, attributes) =>
        {
            asked.Add((iova, wanted, attributes.RequesterId));
            return new IommuTranslation(iova, default, 0, AccessRights.None);
        };
        var nic = new TransactionAttributes(DirtySource.Device, 0x0208);
        _device.Read(At(0x5123), new byte[1], nic);
        _device.Write(At(0x6000), new byte[1], nic);
        _device.CompareExchange(At(0x7008), 0, 1, out _, nic);
        Assert.Equal(
            [
                (new Iova(0x5123), AccessRights.Read, 0x0208),
                (new Iova(0x6000), AccessRights.Write, 0x0208),
                (new Iova(0x7008), AccessRights.ReadWrite, 0x0208),
            ],
            asked);
    }

    [Fact]
    public void An_offset_in_the_region_is_the_IOVA_also_around_windows()
    {
        var root = new ContainerRegion("root", MemoryRegion.MaxSize);
        var iommu = new TestIommu("second");
        var window = new Registers();
        _topology.Add(root, default, iommu);
        _topology.Add(root, At(0xFEE0_0000), new MmioRegion("msi", 0x10_0000, window), 1);
        AddressSpace device = _topology.CreateAddressSpace("second", root);
        var asked = new List<ulong>();
        iommu.OnTranslate = (iova, _, _) =>
        {
            asked.Add(iova.Value);
            return new IommuTranslation(iova, new Gpa(RamBase), 0, AccessRights.ReadWrite);
        };
        device.Read(At(0xFEF0_0010), new byte[1], TransactionAttributes.Vmm);
        device.WriteUInt32(At(0xFEE0_1000), 0x41, TransactionAttributes.Vmm);
        device.Read(At(ulong.MaxValue), new byte[1], TransactionAttributes.Vmm);
        Assert.Equal([0xFEF0_0010UL, ulong.MaxValue], asked);
        Assert.Equal(["w4@1000=41"], window.Log);
    }

    [Fact]
    public void Large_pages_are_one_piece()
    {
        int calls = 0;
        _iommu.OnTranslate = (_, _, _) =>
        {
            calls++;
            return new IommuTranslation(default, new Gpa(RamBase), (1 << 21) - 1, AccessRights.ReadWrite);
        };
        Assert.Equal(MemoryResult.Ok, _device.Write(At(0x10), new byte[0x9000], TransactionAttributes.Vmm));
        Assert.Equal(1, calls);
    }

    [Fact]
    public void Peer_to_peer_reaches_registers()
    {
        var registers = new Registers();
        _topology.Add(_topology.SystemRoot, At(0xF000_0000), new MmioRegion("bar", 0x1000, registers));
        _table[5] = (0xF_0000, AccessRights.ReadWrite);
        Assert.Equal(MemoryResult.Ok, _device.WriteUInt32(At(0x5010), 3, TransactionAttributes.Vmm));
        Assert.Equal(["w4@10=3"], registers.Log);
    }

    [Fact]
    public void Translations_to_nowhere_do_not_decode()
    {
        _table[1] = (0x7_0000, AccessRights.ReadWrite);
        Assert.Equal(MemoryResult.DecodeError, _device.Read(At(0x1000), new byte[4], TransactionAttributes.Vmm));
        _iommu.OnTranslate = (_, _, _) => new IommuTranslation(default, new Gpa(ulong.MaxValue), ulong.MaxValue, AccessRights.ReadWrite);
        Assert.Equal(MemoryResult.DecodeError, _device.Read(At(0x10), new byte[4], TransactionAttributes.Vmm));
    }

    [Fact]
    public void An_IOMMU_that_translates_to_itself_stops()
    {
        int calls = 0;
        var stacked = new TestIommu("stacked", 0x1000);
        stacked.OnTranslate = (iova, _, _) =>
        {
            calls++;
            return new IommuTranslation(default, new Gpa(0), 0xFFF, AccessRights.ReadWrite);
        };
        _topology.Add(_topology.SystemRoot, default, stacked);
        Assert.Equal(MemoryResult.AccessError, _topology.System.Read(At(0), new byte[4], TransactionAttributes.Vmm));
        Assert.Equal(AddressSpace.MaxTranslations, calls);
    }

    [Fact]
    public void A_model_that_answers_for_another_address_is_found_out()
    {
        _iommu.OnTranslate = (_, _, _) => new IommuTranslation(new Iova(0x1000), new Gpa(RamBase), 0xFFF, AccessRights.ReadWrite);
        Assert.Throws<InvalidOperationException>(() => _device.Read(At(0x800), new byte[4], TransactionAttributes.Vmm));
        Assert.Throws<InvalidOperationException>(() => _device.Read(At(0x2000), new byte[4], TransactionAttributes.Vmm));
        AccessGuardTests.AssertOutside();
    }

    [Fact]
    public void A_translation_may_walk_tables_in_system_memory()
    {
        _iommu.OnTranslate = (iova, wanted, attributes) =>
        {
            MemoryResult result = _topology.System.ReadUInt64(At(RamBase + (iova.Value >> 12) * 8), out ulong entry, attributes);
            return result == MemoryResult.Ok && entry != 0
                ? new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), new Gpa(entry), 0xFFF, AccessRights.ReadWrite)
                : new IommuTranslation(iova, default, 0, AccessRights.None);
        };
        _topology.System.WriteUInt64(At(RamBase + 7 * 8), RamBase + 0x5000, TransactionAttributes.Vcpu);
        Assert.Equal(MemoryResult.Ok, _device.WriteUInt32(At(0x7004), 0xABCD, TransactionAttributes.Vmm));
        _topology.System.ReadUInt32(At(RamBase + 0x5004), out uint value, TransactionAttributes.Vcpu);
        Assert.Equal(0xABCDU, value);
        Assert.Equal(MemoryResult.AccessError, _device.WriteUInt32(At(0x8004), 0xABCD, TransactionAttributes.Vmm));
    }

    /// <summary>Tables in registers open the guard, so the mapping may be withdrawn between translation and use: it is translated again.</summary>
    [Fact]
    public void A_translation_that_touched_registers_is_made_again()
    {
        var registers = new Registers();
        _topology.Add(_topology.SystemRoot, default, new MmioRegion("tables", 0x1000, registers));
        ulong target = RamBase;
        bool present = true;
        registers.OnRead = (_, _) =>
        {
            // Another thread's invalidation, made here: it withdraws the mapping and its wait ends, for this access is outside.
            if (registers.Log.Count == 1)
            {
                present = false;
                var invalidation = new Thread(_topology.WaitForAccesses);
                invalidation.Start();
                Assert.True(invalidation.Join(TimeSpan.FromSeconds(30)));
            }

            return 0;
        };
        int calls = 0;
        _iommu.OnTranslate = (iova, wanted, attributes) =>
        {
            bool was = present;
            if (calls++ == 0)
                _topology.System.ReadUInt32(default, out _, attributes);
            return was
                ? new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), new Gpa(target), 0xFFF, AccessRights.ReadWrite)
                : new IommuTranslation(iova, default, 0, AccessRights.None);
        };
        Assert.Equal(MemoryResult.AccessError, _device.WriteUInt32(At(0x0), 1, TransactionAttributes.Vmm));
        Assert.Equal(2, calls);
        _topology.System.ReadUInt32(At(RamBase), out uint value, TransactionAttributes.Vcpu);
        Assert.Equal(0U, value);
    }

    [Fact]
    public void Tables_that_always_lie_in_registers_stop()
    {
        _topology.Add(_topology.SystemRoot, default, new MmioRegion("tables", 0x1000, new Registers()));
        int calls = 0;
        _iommu.OnTranslate = (iova, wanted, attributes) =>
        {
            calls++;
            _topology.System.ReadUInt32(default, out _, attributes);
            return new IommuTranslation(iova, new Gpa(RamBase), 0, AccessRights.ReadWrite);
        };
        Assert.Equal(MemoryResult.AccessError, _device.Read(At(0), new byte[1], TransactionAttributes.Vmm));
        Assert.Equal(AddressSpace.MaxTranslations, calls);
    }

    private static BusAddress At(ulong address) => new(address);

    private void Map(ulong iovaPage, ulong ramPage, AccessRights rights = AccessRights.ReadWrite) =>
        _table[iovaPage] = ((RamBase >> 12) + ramPage, rights);
}
