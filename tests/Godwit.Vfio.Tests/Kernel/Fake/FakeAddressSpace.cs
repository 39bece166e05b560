using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>A mapping that the kernel holds, with its memory locked.</summary>
internal readonly record struct FakeMapping(ulong Iova, ulong Size, ulong Address, bool Writable)
{
    public ulong Last => Iova + (Size - 1);
}

/// <summary>Mappings by IOVA, as type1 and iommufd keep them alike: whole, never overlapping, their memory locked and counted.</summary>
internal sealed class FakeAddressSpace(FakeKernel kernel)
{
    public const ulong PageSize = 4096;

    private readonly SortedDictionary<ulong, FakeMapping> _mappings = [];

    /// <summary>Pages written since the bits were last cleared, when the IOMMU has dirty bits.</summary>
    public HashSet<ulong> Dirty { get; } = [];

    public bool TracksDirty { get; set; }

    public int Count => _mappings.Count;

    public IEnumerable<FakeMapping> All => _mappings.Values;

    /// <summary>The mapping with that byte.</summary>
    public FakeMapping? Find(ulong iova)
    {
        foreach (FakeMapping mapping in _mappings.Values)
        {
            if (mapping.Iova <= iova && iova <= mapping.Last)
                return mapping;
        }

        return null;
    }

    public bool Overlaps(ulong iova, ulong last) => _mappings.Values.Any(m => m.Iova <= last && iova <= m.Last);

    /// <summary>Locks and maps; ENOMEM beyond the limit (drivers/vfio/vfio_iommu_type1.c, vfio_pin_pages_remote; iommufd books alike).</summary>
    public Errno Add(in FakeMapping mapping)
    {
        if (kernel.LockedBytes + mapping.Size > kernel.MemoryLockLimit)
            return Errno.ENOMEM;
        _mappings.Add(mapping.Iova, mapping);
        kernel.LockedBytes += mapping.Size;
        kernel.Mappings++;
        return Errno.None;
    }

    public void Remove(in FakeMapping mapping)
    {
        _mappings.Remove(mapping.Iova);
        kernel.LockedBytes -= mapping.Size;
        kernel.Mappings--;
        ulong first = mapping.Iova / PageSize, last = mapping.Last / PageSize;
        Dirty.RemoveWhere(page => page >= first && page <= last); // the bits live in the page table entries
    }

    public void Clear()
    {
        foreach (FakeMapping mapping in _mappings.Values.ToArray())
            Remove(mapping);
    }

    /// <summary>A write of a device; false (an IOMMU fault) when it is not mapped for writing. Within one page.</summary>
    public unsafe bool DeviceWrite(ulong iova, ReadOnlySpan<byte> data)
    {
        if (Find(iova) is not { Writable: true } mapping)
            return false;
        data.CopyTo(new Span<byte>((byte*)(mapping.Address + (iova - mapping.Iova)), data.Length));
        if (TracksDirty)
            Dirty.Add(iova / PageSize);
        return true;
    }

    /// <summary>A read of a device; false when it is not mapped. Within one page.</summary>
    public unsafe bool DeviceRead(ulong iova, Span<byte> data)
    {
        if (Find(iova) is not { } mapping)
            return false;
        new ReadOnlySpan<byte>((byte*)(mapping.Address + (iova - mapping.Iova)), data.Length).CopyTo(data);
        return true;
    }
}
