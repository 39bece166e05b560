using System.Buffers.Binary;
using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Iommu.Tests;

/// <summary>
/// What VT-d makes of tables in guest RAM, written a second time from the specification's text and numbers, without regard to speed: the
/// verdict on a requester, the fault of an access, and every page that a table maps.
/// </summary>
internal sealed class TableOracle(GuestDriver guest)
{
    /// <summary>More leaves than this are not collected: the tables alias each other.</summary>
    internal const int MaxLeaves = 20_000;

    private readonly IntelIommuOptions _options = guest.Iommu.Options;

    internal enum Way
    {
        Blocked,
        Through,
        Table,
    }

    /// <summary>Reason 0 is no fault to record.</summary>
    internal sealed record Verdict(Way Way, int Reason = 0, bool Silent = false, ulong Root = 0, int Levels = 0, bool First = false, bool Scalable = false);

    internal Verdict Judge(ulong rootAddress, ushort sid)
    {
        ulong table = rootAddress & ~0xFFFUL;
        switch ((rootAddress >> 10) & 3)
        {
            case 0:
                return Legacy(table, sid);
            case 1 when _options.ScalableMode:
                return Scalable(table, sid);
            case 3:
                return new Verdict(Way.Blocked, 0x33);
            default:
                return new Verdict(Way.Blocked, 0x30);
        }
    }

    private Verdict Legacy(ulong table, ushort sid)
    {
        if (Read(table + ((ulong)(sid >> 8) * 16)) is not { } low || Read(table + ((ulong)(sid >> 8) * 16) + 8) is not { } high)
            return new Verdict(Way.Blocked, 8);
        if ((low & 1) == 0)
            return new Verdict(Way.Blocked, 1);
        if ((low & 0xFFF0_0000_0000_0FFE) != 0 || high != 0)
            return new Verdict(Way.Blocked, 0xA);
        ulong at = (low & ~0xFFFUL) + ((ulong)(sid & 255) * 16);
        if (Read(at) is not { } entry || Read(at + 8) is not { } upper)
            return new Verdict(Way.Blocked, 9);
        bool silent = (entry & 2) != 0;
        if ((entry & 1) == 0)
            return new Verdict(Way.Blocked, 2, silent);
        if ((entry & 0xFFF0_0000_0000_0FF0) != 0 || (upper & 0xFFFF_FFFF_FF00_0080) != 0)
            return new Verdict(Way.Blocked, 0xB, silent);
        int width = (int)(upper & 7);
        int type = (int)((entry >> 2) & 3);
        bool known = type == 0 || (type == 1 && _options.DeviceIotlb) || (type == 2 && _options.PassThrough);
        if (!known || !HasWidth(width))
            return new Verdict(Way.Blocked, 3, silent);
        return type == 2
            ? new Verdict(Way.Through)
            : new Verdict(Way.Table, 0, silent, entry & 0x000F_FFFF_FFFF_F000, width + 2);
    }

    private Verdict Scalable(ulong table, ushort sid)
    {
        if (Read(table + ((ulong)(sid >> 8) * 16) + ((sid & 0x80u) >> 4)) is not { } root)
            return new Verdict(Way.Blocked, 0x38);
        if ((root & 1) == 0)
            return new Verdict(Way.Blocked, 0x39);
        if ((root & 0xFFF0_0000_0000_0FFE) != 0)
            return new Verdict(Way.Blocked, 0x3A);
        ulong[]? context = ReadMany((root & ~0xFFFUL) + ((ulong)(sid & 127) * 32), 4);
        if (context is null)
            return new Verdict(Way.Blocked, 0x40);
        bool silent = (context[0] & 2) != 0;
        if ((context[0] & 1) == 0)
            return new Verdict(Way.Blocked, 0x41, silent);
        ulong reserved = 0xFFF0_0000_0000_01F8 | (_options.DeviceIotlb ? 0u : 4u);
        if ((context[0] & reserved) != 0 || context[1] >> 20 != 0 || context[2] != 0 || context[3] != 0)
            return new Verdict(Way.Blocked, 0x42, silent);
        ulong pasid = context[1];
        if (pasid / 64 >= 128UL << (int)((context[0] >> 9) & 7))
            return new Verdict(Way.Blocked, 0x43, silent);
        if (Read((context[0] & ~0xFFFUL) + (pasid / 64 * 8)) is not { } directory)
            return new Verdict(Way.Blocked, 0x50, silent);
        silent |= (directory & 2) != 0;
        if ((directory & 1) == 0)
            return new Verdict(Way.Blocked, 0x51, silent);
        if ((directory & 0xFFF0_0000_0000_0FFC) != 0)
            return new Verdict(Way.Blocked, 0x52, silent);
        ulong[]? entry = ReadMany((directory & ~0xFFFUL) + (pasid % 64 * 64), 8);
        if (entry is null)
            return new Verdict(Way.Blocked, 0x58, silent);
        silent |= (entry[0] & 2) != 0;
        if ((entry[0] & 1) == 0)
            return new Verdict(Way.Blocked, 0x59, silent);
        bool clean = (entry[0] & 0xFFF0_0000_0000_0E20) == 0
            && (entry[1] & 0xFFFF_FFFF_FE7F_0000) == 0
            && (_options.SnoopControl || (entry[1] & (1 << 24)) == 0)
            && (entry[2] & (0xFFF0_0000_0000_0F82 | (_options.FirstStage ? 0 : 0x000F_FFFF_FFFF_F01CUL))) == 0
            && entry[3..].All(word => word == 0);
        if (!clean)
            return new Verdict(Way.Blocked, 0x5A, silent);
        int width = (int)(entry[0] >> 2) & 7, first = (int)(entry[2] >> 2) & 3;
        switch ((entry[0] >> 6) & 7)
        {
            case 1 when _options.FirstStage && (first == 0 || (first == 1 && _options.AddressWidth == 57)):
                return new Verdict(Way.Table, 0, silent, entry[2] & ~0xFFFUL, 4 + first, First: true, Scalable: true);
            case 2 when HasWidth(width):
                return new Verdict(Way.Table, 0, silent, entry[0] & ~0xFFFUL, width + 2, Scalable: true);
            case 4 when _options.PassThrough:
                return new Verdict(Way.Through);
            default:
                return new Verdict(Way.Blocked, 0x5B, silent);
        }
    }

    private bool HasWidth(int code) => code is >= 1 and <= 3 && 30 + (9 * code) <= _options.AddressWidth;

    /// <summary>The fault that an access gets, or 0 and the page.</summary>
    internal int Access(Verdict verdict, ulong iova, bool write, out ulong page)
    {
        page = 0;
        if (verdict.First)
        {
            int bits = 12 + (9 * verdict.Levels);
            ulong upper = iova >> (bits - 1);
            if (upper != 0 && upper != ulong.MaxValue >> (bits - 1))
                return 0x80;
            if (upper != 0)
                return 0x83;
        }
        else if (iova >> Math.Min(_options.AddressWidth, 12 + (9 * verdict.Levels)) != 0)
        {
            return verdict.Scalable ? 0x84 : 4;
        }

        ulong table = verdict.Root;
        bool canRead = true, canWrite = true;
        for (int level = verdict.Levels; ; level--)
        {
            int shift = 3 + (9 * level);
            if (Read(table + ((iova >> shift) % 512 * 8)) is not { } entry)
            {
                bool top = level == verdict.Levels;
                return verdict.First ? top ? 0x73 : 0x70 : verdict.Scalable ? top ? 0x7B : 0x78 : top ? 3 : 7;
            }

            bool leaf = level == 1 || (entry & 0x80) != 0;
            ulong inside = leaf && level > 1 ? (1UL << shift) - 0x1000 : 0;
            bool odd = (level > 3 && leaf) || (level <= 3 && (entry & inside & ~(verdict.First ? 0x1000UL : 0)) != 0);
            if (verdict.First)
            {
                if ((entry & 1) == 0)
                    return 0x71;
                if (odd)
                    return 0x72;
                if ((entry & 4) == 0)
                    return 0x81;
                canWrite &= (entry & 2) != 0;
            }
            else
            {
                odd |= (entry & (1UL << 62)) != 0 || ((!leaf || !_options.SnoopControl) && (entry & 0x800) != 0);
                canRead &= (entry & 1) != 0;
                canWrite &= (entry & 2) != 0;
                if (verdict.Scalable && !canRead && !canWrite)
                    return 0x79;
                if (!verdict.Scalable && !(write ? canWrite : canRead))
                    return write ? 5 : 6;
                if (odd)
                    return verdict.Scalable ? 0x7A : 0xC;
            }

            if (!leaf)
            {
                table = entry & 0x000F_FFFF_FFFF_F000;
                continue;
            }

            if (!(write ? canWrite : canRead))
                return write ? 0x85 : 0x86;
            page = entry & 0x000F_FFFF_FFFF_F000 & ~((1UL << shift) - 1);
            if (page < 0xFEF0_0000 && page + (1UL << shift) > 0xFEE0_0000)
                return verdict.Scalable ? 0x87 : 0xE;
            page += iova & ((1UL << shift) - 1) & ~0xFFFUL;
            return 0;
        }
    }

    /// <summary>Everything that a passthrough device must have been told of, clipped at the interrupt window; null when it is too much.</summary>
    internal SortedDictionary<ulong, (ulong Length, ulong Target, AccessRights Rights)>? Leaves(Verdict verdict)
    {
        var result = new SortedDictionary<ulong, (ulong, ulong, AccessRights)>();
        int visits = 0;
        int bits = Math.Min(_options.AddressWidth, 12 + (9 * verdict.Levels) - (verdict.First ? 1 : 0));
        return verdict.Way != Way.Table || Collect(verdict.Root, verdict.Levels, 0, true, true) ? result : null;

        bool Collect(ulong table, int level, ulong origin, bool read, bool write)
        {
            if (++visits > 4_000 || result.Count > MaxLeaves)
                return false;
            int shift = 3 + (9 * level);
            for (ulong index = 0; index < 512; index++)
            {
                ulong iova = origin + (index << shift);
                if (iova >> bits != 0)
                    break;
                if (Read(table + (index * 8)) is not { } entry)
                    return true;
                bool leaf = level == 1 || (entry & 0x80) != 0;
                ulong inside = leaf && level > 1 && level <= 3 ? (1UL << shift) - 0x1000 : 0;
                bool r = read, w = write;
                if (verdict.First)
                {
                    if ((entry & 5) != 5 || (level > 3 && leaf) || (entry & inside & ~0x1000UL) != 0)
                        continue;
                    w &= (entry & 2) != 0;
                }
                else
                {
                    ulong reserved = (1UL << 62) | (leaf && _options.SnoopControl ? 0 : 0x800u);
                    if ((level > 3 && leaf) || (entry & (reserved | inside)) != 0)
                        continue;
                    r &= (entry & 1) != 0;
                    w &= (entry & 2) != 0;
                    if (!r && !w)
                        continue;
                }

                if (!leaf)
                {
                    if (!Collect(entry & 0x000F_FFFF_FFFF_F000, level - 1, iova, r, w))
                        return false;
                    continue;
                }

                ulong size = 1UL << shift;
                ulong page = entry & 0x000F_FFFF_FFFF_F000 & ~(size - 1);
                if (page < 0xFEF0_0000 && page + size > 0xFEE0_0000)
                    continue;
                AccessRights rights = (r ? AccessRights.Read : 0) | (w ? AccessRights.Write : 0);
                if (iova < 0xFEE0_0000)
                    result.Add(iova, (Math.Min(size, 0xFEE0_0000 - iova), page, rights));
                ulong from = Math.Max(iova, 0xFEF0_0000);
                if (from < iova + size)
                    result.Add(from, (iova + size - from, page + (from - iova), rights));
            }

            return true;
        }
    }

    private ulong? Read(ulong address) => ReadMany(address, 1)?[0];

    private ulong[]? ReadMany(ulong address, int count)
    {
        // RAM is one block at 0; a table anywhere else cannot be read.
        if (address > GuestDriver.RamSize - ((ulong)count * 8))
            return null;
        byte[] bytes = new byte[count * 8];
        guest.Block.Read(address, bytes);
        return [.. Enumerable.Range(0, count).Select(index => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(index * 8)))];
    }
}
