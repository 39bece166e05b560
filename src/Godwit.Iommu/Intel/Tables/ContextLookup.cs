using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>
/// From a requester to what becomes of its DMA: root and context entry in legacy mode (VT-d 3.4.2), root, context, PASID directory and PASID
/// entry in scalable mode (3.4.3). At most four reads, each judged by its copy. Any thread.
/// </summary>
internal sealed class ContextLookup(GuestTables tables, IntelIommuOptions options)
{
    internal DeviceContext Find(RootPointer pointer, ushort sourceId) => pointer.Mode switch
    {
        TableMode.Legacy => FindLegacy(pointer.Table, sourceId),
        TableMode.Scalable when options.ScalableMode => FindScalable(pointer.Table, sourceId),
        TableMode.AbortDma => DeviceContext.Blocked(FaultReason.AbortDma),
        _ => DeviceContext.Blocked(FaultReason.TableModeInvalid),
    };

    private DeviceContext FindLegacy(ulong rootTable, ushort sourceId)
    {
        Span<ulong> words = stackalloc ulong[2];
        if (!tables.TryRead(rootTable + ((ulong)(sourceId >> 8) * 16), words))
            return DeviceContext.Blocked(FaultReason.RootAccess);
        var root = new RootEntry(words[0], words[1]);
        if (!root.IsPresent)
            return DeviceContext.Blocked(FaultReason.RootNotPresent);
        if (root.HasReservedBits(GuestTables.HostWidthMask))
            return DeviceContext.Blocked(FaultReason.RootReserved);
        if (!tables.TryRead(root.ContextTable + ((ulong)(sourceId & 0xFF) * 16), words))
            return DeviceContext.Blocked(FaultReason.ContextAccess);
        var entry = new ContextEntry(words[0], words[1]);
        bool silent = entry.FaultDisabled;
        if (!entry.IsPresent)
            return DeviceContext.Blocked(FaultReason.ContextNotPresent, silent);
        if (entry.HasReservedBits(GuestTables.HostWidthMask))
            return DeviceContext.Blocked(FaultReason.ContextReserved, silent);
        DmaMode mode = entry.TranslationType switch
        {
            ContextEntry.SecondStage => DmaMode.Translated,
            ContextEntry.SecondStageAndDeviceTlb when options.DeviceIotlb => DmaMode.Translated,
            ContextEntry.PassThrough when options.PassThrough => DmaMode.PassThrough,
            _ => DmaMode.Blocked,
        };
        // The width counts for pass-through too: software gives the largest that is supported (9.3, AW).
        if (mode == DmaMode.Blocked || !IsSupportedWidth(entry.AddressWidthCode))
            return DeviceContext.Blocked(FaultReason.ContextInvalid, silent);
        return new DeviceContext(mode, FaultReason.None, silent)
        {
            Domain = entry.Domain,
            Table = mode == DmaMode.Translated
                ? PageTable.SecondStage(TableStage.LegacySecond, entry.Table, entry.AddressWidthCode, options)
                : default,
        };
    }

    private DeviceContext FindScalable(ulong rootTable, ushort sourceId)
    {
        int devFn = sourceId & 0xFF;
        if (!tables.TryRead(rootTable + ((ulong)(sourceId >> 8) * 16) + ((ulong)(devFn >> 7) * 8), out ulong word))
            return DeviceContext.Blocked(FaultReason.ScalableRootAccess);
        var root = new ScalableRootHalf(word);
        if (!root.IsPresent)
            return DeviceContext.Blocked(FaultReason.ScalableRootNotPresent);
        if (root.HasReservedBits(GuestTables.HostWidthMask))
            return DeviceContext.Blocked(FaultReason.ScalableRootReserved);
        Span<ulong> words = stackalloc ulong[4];
        if (!tables.TryRead(root.ContextTable + ((ulong)(devFn & 0x7F) * ScalableContextEntry.Size), words))
            return DeviceContext.Blocked(FaultReason.ScalableContextAccess);
        var entry = new ScalableContextEntry(words[0], words[1], words[2] | words[3]);
        bool silent = entry.FaultDisabled;
        if (!entry.IsPresent)
            return DeviceContext.Blocked(FaultReason.ScalableContextNotPresent, silent);
        if (entry.HasReservedBits(GuestTables.HostWidthMask, options.DeviceIotlb))
            return DeviceContext.Blocked(FaultReason.ScalableContextReserved, silent);
        return FindPasid(entry);
    }

    /// <summary>The PASID entry of requests that carry none.</summary>
    private DeviceContext FindPasid(in ScalableContextEntry context)
    {
        bool silent = context.FaultDisabled;
        uint pasid = context.RidPasid;
        if (pasid >> 6 >= context.DirectoryEntries)
            return DeviceContext.Blocked(FaultReason.ScalableContextInvalid, silent);
        if (!tables.TryRead(context.Directory + ((ulong)(pasid >> 6) * 8), out ulong word))
            return DeviceContext.Blocked(FaultReason.PasidDirectoryAccess, silent);
        var directory = new PasidDirectoryEntry(word);
        silent |= directory.FaultDisabled;
        if (!directory.IsPresent)
            return DeviceContext.Blocked(FaultReason.PasidDirectoryNotPresent, silent);
        if (directory.HasReservedBits(GuestTables.HostWidthMask))
            return DeviceContext.Blocked(FaultReason.PasidDirectoryReserved, silent);
        Span<ulong> words = stackalloc ulong[PasidEntry.Words];
        if (!tables.TryRead(directory.Table + ((ulong)(pasid & 63) * PasidEntry.Words * sizeof(ulong)), words))
            return DeviceContext.Blocked(FaultReason.PasidTableAccess, silent);
        var entry = PasidEntry.From(words);
        silent |= entry.FaultDisabled;
        if (!entry.IsPresent)
            return DeviceContext.Blocked(FaultReason.PasidEntryNotPresent, silent);
        if (entry.HasReservedBits(GuestTables.HostWidthMask, options.SnoopControl, options.FirstStage))
            return DeviceContext.Blocked(FaultReason.PasidEntryReserved, silent);
        return Judge(entry) is { } valid
            ? valid with { FaultDisabled = silent, Domain = entry.Domain, Pasid = pasid }
            : DeviceContext.Blocked(FaultReason.PasidEntryInvalid, silent);
    }

    /// <summary>PGTT and what it needs; null when that is not offered, nested translation among it (ECAP.NEST is 0).</summary>
    private DeviceContext? Judge(in PasidEntry entry)
    {
        PageTable table = default;
        switch (entry.Translation)
        {
            case PasidTranslation.PassThrough when options.PassThrough:
                return new DeviceContext(DmaMode.PassThrough, FaultReason.None, FaultDisabled: false);
            case PasidTranslation.SecondStage when IsSupportedWidth(entry.AddressWidthCode):
                table = PageTable.SecondStage(TableStage.Second, entry.SecondStageTable, entry.AddressWidthCode, options);
                break;
            // Five levels are offered with aw-bits=57 (CAP.FS5LP).
            case PasidTranslation.FirstStage when options.FirstStage && (entry.FirstStageMode == 0 || (entry.FirstStageMode == 1 && options.AddressWidth == 57)):
                table = PageTable.FirstStage(entry.FirstStageTable, 4 + entry.FirstStageMode, options);
                break;
            default:
                return null;
        }

        return new DeviceContext(DmaMode.Translated, FaultReason.None, FaultDisabled: false) { Table = table };
    }

    private bool IsSupportedWidth(int code) => ((Capabilities.SupportedWidths(options) >> code) & 1) != 0;
}
