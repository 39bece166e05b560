using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// Reads the guest's tables, from RAM only: a table that points at registers or at nothing is a fault, never a device access. Each entry is
/// read once and judged by the copy.
/// </summary>
internal sealed class GuestTables(AddressSpace system)
{
    /// <summary>Addresses have 52 bits; bits above are reserved in every pointer (VT-d 9, HAW).</summary>
    internal const ulong HostWidthMask = (1UL << 52) - 1;

    /// <summary>Reads consecutive 64-bit entries; the span must not cross a page.</summary>
    internal bool TryRead(ulong address, Span<ulong> entries)
    {
        int bytes = entries.Length * sizeof(ulong);
        if (address > HostWidthMask
            || !system.TryResolveRam(new BusAddress(address), out RamBlock block, out ulong offset, out ulong contiguous, out _)
            || contiguous < (ulong)bytes)
        {
            return false;
        }

        block.Read(offset, MemoryMarshal.AsBytes(entries));
        if (!BitConverter.IsLittleEndian)
            BinaryPrimitives.ReverseEndianness(entries, entries);
        return true;
    }

    /// <summary>Begins a walk for one access: reads of single entries with nothing between them that waits.</summary>
    internal RamReader Open() => system.OpenRam();

    /// <summary>Reads one aligned entry.</summary>
    internal bool TryRead(ulong address, out ulong entry)
    {
        Span<ulong> word = stackalloc ulong[1];
        bool read = TryRead(address, word);
        entry = word[0];
        return read;
    }

    /// <summary>
    /// Writes a status word into RAM. To anything else it is dropped, as a posted write to nowhere is: the unit's own writes must not run
    /// register handlers, which may want locks that the unit holds.
    /// </summary>
    internal void WriteStatus(ulong address, uint value)
    {
        if (!system.TryResolveRam(new BusAddress(address), out RamBlock block, out ulong offset, out ulong contiguous, out bool readOnly)
            || readOnly || contiguous < sizeof(uint))
        {
            return;
        }

        Span<byte> data = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        block.Write(offset, data, DirtySource.Vmm);
    }

    /// <summary>Sets <paramref name="marks"/> in the aligned entry at <paramref name="address"/> if it still is <paramref name="seen"/>, at once.</summary>
    internal MarkResult TryMark(ulong address, ulong seen, ulong marks)
    {
        if (system.CompareExchange(new BusAddress(address), seen, seen | marks, out ulong previous, TransactionAttributes.Vmm) != MemoryResult.Ok)
            return MarkResult.Refused;
        return previous == seen ? MarkResult.Done : MarkResult.Changed;
    }
}

/// <summary>Outcome of marking a table entry.</summary>
internal enum MarkResult
{
    Done,

    /// <summary>The entry is another one meanwhile.</summary>
    Changed,

    /// <summary>It lies in memory that cannot be written.</summary>
    Refused,
}
