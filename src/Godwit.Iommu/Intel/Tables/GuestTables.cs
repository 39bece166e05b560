using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Godwit.Iommu.Intel.Spec;
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

    /// <summary>Fetches and checks the context entry of a requester (VT-d 3.4.3, 9.1, 9.3).</summary>
    internal DeviceContext Lookup(RootPointer pointer, ushort sourceId, IntelIommuOptions options)
    {
        if (pointer.Mode != TableMode.Legacy)
            return new DeviceContext(FaultReason.TableModeInvalid);
        Span<ulong> words = stackalloc ulong[2];
        if (!TryRead(pointer.Table + ((ulong)(sourceId >> 8) * 16), words))
            return new DeviceContext(FaultReason.RootAccess);
        var root = new RootEntry(words[0], words[1]);
        if (!root.IsPresent)
            return new DeviceContext(FaultReason.RootNotPresent);
        if (root.HasReservedBits(HostWidthMask))
            return new DeviceContext(FaultReason.RootReserved);
        if (!TryRead(root.ContextTable + ((ulong)(sourceId & 0xFF) * 16), words))
            return new DeviceContext(FaultReason.ContextAccess);
        var entry = new ContextEntry(words[0], words[1]);
        if (!entry.IsPresent)
            return new DeviceContext(FaultReason.ContextNotPresent, entry);
        if (entry.HasReservedBits(HostWidthMask))
            return new DeviceContext(FaultReason.ContextReserved, entry);
        bool validType = entry.TranslationType == ContextEntry.SecondStage
            || (entry.TranslationType == ContextEntry.PassThrough && options.PassThrough);
        bool validWidth = ((Capabilities.SupportedWidths(options) >> entry.AddressWidthCode) & 1) != 0;
        return new DeviceContext(validType && validWidth ? FaultReason.None : FaultReason.ContextInvalid, entry);
    }

    /// <summary>Walks the second stage for one address (VT-d 3.7).</summary>
    internal FaultReason Walk(in ContextEntry context, Iova iova, AccessRights wanted, int addressWidth, out Announcement leaf)
    {
        leaf = default;
        int level = context.Levels;
        int width = Math.Min(addressWidth, SecondStageEntry.PageShift(level + 1));
        if (iova.Value >> width != 0)
            return FaultReason.AddressBeyondWidth;
        ulong table = context.Table;
        AccessRights rights = AccessRights.ReadWrite;
        Span<ulong> word = stackalloc ulong[1];
        for (; level > 0; level--)
        {
            ulong index = (iova.Value >> SecondStageEntry.PageShift(level)) & 511;
            if (!TryRead(table + (index * 8), word))
                return FaultReason.TableAccess;
            var entry = new SecondStageEntry(word[0]);
            rights &= (entry.CanRead ? AccessRights.Read : 0) | (entry.CanWrite ? AccessRights.Write : 0);
            if ((wanted & AccessRights.Write & ~rights) != 0)
                return FaultReason.WriteDenied;
            if ((wanted & AccessRights.Read & ~rights) != 0 || rights == AccessRights.None)
                return FaultReason.ReadDenied;
            if (entry.HasReservedBits(level, HostWidthMask))
                return FaultReason.TableReserved;
            if (entry.IsLeaf(level))
            {
                ulong page = entry.Page(level);
                ulong bytes = SecondStageEntry.PageBytes(level);
                if (InterruptRange.Overlaps(page, bytes))
                    return FaultReason.OutputInInterruptRange;
                leaf = new Announcement(new Iova(iova.Value & ~(bytes - 1)), level, new Gpa(page), rights);
                return FaultReason.None;
            }

            table = entry.Table;
        }

        return FaultReason.TableReserved;
    }
}

/// <summary>A context entry with the verdict on it. Immutable.</summary>
internal sealed record DeviceContext(FaultReason Fault, ContextEntry Entry = default)
{
    internal bool IsValid => Fault == FaultReason.None;

    internal ushort Domain => Entry.Domain;

    /// <summary>The PASID that requests without one get; 0 in legacy mode.</summary>
    internal uint Pasid { get; init; }

    internal bool IsPassThrough => IsValid && Entry.TranslationType == ContextEntry.PassThrough;

    internal bool IsTranslated => IsValid && Entry.TranslationType == ContextEntry.SecondStage;
}
