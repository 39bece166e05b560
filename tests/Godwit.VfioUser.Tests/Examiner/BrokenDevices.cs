using System.Runtime.CompilerServices;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>For every check of the examiner a device that is wrong in just that.</summary>
internal static class BrokenDevices
{
    private delegate void ConfigChange(Exchange message, Span<byte> data);

    public static IReadOnlyDictionary<string, Func<Spoil>> ByCheck { get; } = new Dictionary<string, Func<Spoil>>(StringComparer.Ordinal)
    {
        ["version.answer"] = () => Patch(Command.Version, m => m.Reply![2] = 1),
        ["version.text"] = () => Patch(Command.Version, m => m.Reply = [.. m.Reply![..^1], .. Enumerable.Repeat((byte)' ', 200), 0]),
        ["version.limits"] = () => Patch(Command.Version, m => m.Reply = Replace(m.Reply!, "\"max_msg_fds\":16", "\"max_msg_fds\":17")),
        ["version.twice"] = () => Accept(Command.Version, _ => true, 4),
        ["version.no-text"] = () => Refuse(Command.Version, m => m.Request.Length == 4),
        ["version.unknown-names"] = () => Refuse(Command.Version, m => Encoding.UTF8.GetString(m.Request).Contains("colour", StringComparison.Ordinal)),
        ["version.malformed"] = () => Accept(Command.Version, m => BitConverter.ToUInt16(m.Request) == 0, 4),
        ["version.other-major"] = () => Accept(Command.Version, m => BitConverter.ToUInt16(m.Request) == 1, 4),
        ["version.first"] = () => Accept(Command.DeviceGetInfo, _ => true, 16),

        ["message.unknown"] = () => new Spoil(m => m.Close = (int)m.Command == 99),
        ["message.short"] = () => new Spoil(After: m =>
        {
            if (m.Error != Errno.None && m.Request.Length == 4)
                m.Accept([]);
        }),
        ["message.error-alone"] = () => new Spoil(After: m =>
        {
            if (m.Error != Errno.None)
                m.Reply = new byte[32];
        }),
        ["message.no-reply"] = () => new Spoil(m => m.AnswerAnyway = !m.Header.WantsReply),
        ["message.pipelined"] = () =>
        {
            int reads = 0;
            return new Spoil(After: m =>
            {
                reads = m.Command == Command.RegionRead ? reads + 1 : 0;
                if (reads > 20)
                    m.Refuse();
            });
        },
        // By its id: whether the pieces are still apart when the relay reads them is a matter of time.
        ["message.pieces"] = () => new Spoil(m => m.Close = m.Header.Id == MessageChecks.PiecesId),

        ["info.answer"] = () => Patch(Command.DeviceGetInfo, m => m.Reply![4] = 0),
        ["info.argsz"] = () => Accept(Command.DeviceGetInfo, _ => true, 16),
        ["info.regions"] = () => Patch(Command.DeviceGetRegionInfo, m => m.Reply![16] |= 0x10),
        ["info.region-bounds"] = () => Accept(Command.DeviceGetRegionInfo, _ => true, 32),
        ["info.mappable"] = () => Patch(Command.DeviceGetRegionInfo, m =>
        {
            m.ReplyFiles.ForEach(file => file.Dispose());
            m.ReplyFiles.Clear();
        }),
        ["info.io-fds"] = () => new Spoil(After: m =>
        {
            // One eventfd that nobody sent, far outside.
            if (m.Command == Command.DeviceGetRegionIoFds)
                m.Accept([.. RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 56, Count = 1 }), .. RawPeer.Bytes(new SpanBody { Start = 1UL << 60, Length = 4 }, new byte[24])]);
        }),

        ["doorbell.room"] = () => Patch(Command.DeviceGetRegionIoFds, m =>
        {
            if (m.Reply!.Length == 16)
                m.Reply[12] = 0;
        }),
        ["doorbell.eventfd"] = () => Patch(Command.DeviceGetRegionIoFds, m => ReplaceFile(m, 0, 1)),
        ["doorbell.shadow"] = () => Patch(Command.DeviceGetRegionIoFds, m =>
        {
            if (m.Reply!.Length > 16)
                m.Reply[16 + 32] = 2; // the first value unaligned
        }),

        ["version.subset"] = () => Patch(Command.Version, m => m.Reply = Replace(m.Reply!, "\"max_msg_fds\"", "\"write_multiple\":true,\"max_msg_fds\"")),
        ["version.twin-socket"] = () => Patch(Command.Version, m => m.Reply = Replace(m.Reply!, "\"fd_index\":0", "\"fd_index\":1")),
        ["region.multiple"] = () => Patch(Command.RegionWriteMulti, m => m.Reply![0]--),

        ["region.sizes"] = () => Patch(Command.RegionRead, m => m.Reply![^1] ^= m.Reply.Length == 17 ? (byte)1 : (byte)0),
        ["region.bounds"] = () => AcceptRead(m => m.As<RegionAccessBody>().Region < PciRegion.Count),
        ["region.absent"] = () => AcceptRead(m => m.As<RegionAccessBody>().Region == 1000),
        ["region.count"] = () => Accept(Command.RegionWrite, _ => true, 16),
        ["region.write-answer"] = () => Patch(Command.RegionWrite, m => m.Reply = [.. m.Reply!, 0]),

        ["config.identity"] = () => PatchConfig(0, 2, (_, data) => data.Fill(0xFF)),
        ["config.read-only"] = () =>
        {
            bool written = false;
            return new Spoil(
                m => written |= m.Command == Command.RegionWrite && m.As<RegionAccessBody>() is { Region: PciRegion.Config, Offset: 0 },
                m =>
                {
                    if (written && m.Command == Command.RegionRead && m.As<RegionAccessBody>() is { Region: PciRegion.Config, Offset: 0 })
                        m.Reply![16] = 0x55;
                });
        },
        ["config.bars"] = () => PatchConfig(0x10, 4, (_, data) => data[2] &= 0xE0),
        ["config.capabilities"] = () => PatchConfig(0x41, 1, (_, data) => data[0] = 0x40),
        ["config.pin"] = () => Patch(Command.DeviceGetIrqInfo, m => SetCount(m, PciIrq.Intx, 0)),
        ["config.msi"] = () => Patch(Command.DeviceGetIrqInfo, m => SetCount(m, PciIrq.Msi, 2)),
        ["config.msix"] = () => Patch(Command.DeviceGetIrqInfo, m => SetCount(m, PciIrq.Msix, 3)),

        ["irq.info"] = () => Patch(Command.DeviceGetIrqInfo, m => m.Reply![8] ^= 1),
        ["irq.trigger"] = () => Swallow(Command.DeviceSetIrqs, m => m.As<SetIrqsBody>() is { Flags: IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, Count: > 0 }),
        ["irq.trigger-some"] = () => Swallow(Command.DeviceSetIrqs, m => (m.As<SetIrqsBody>().Flags & IrqSetFlags.DataBool) != 0),
        ["irq.take-away"] = () => Swallow(Command.DeviceSetIrqs, m => m.As<SetIrqsBody>() is { Flags: IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, Count: 0 }),
        ["irq.mask"] = () => Swallow(Command.DeviceSetIrqs, m => (m.As<SetIrqsBody>().Flags & IrqSetFlags.ActionMask) != 0),
        ["irq.bounds"] = () => Accept(Command.DeviceSetIrqs, _ => true, 0),

        ["dma.map"] = () => Patch(Command.DmaUnmap, m => m.Reply = []),
        ["dma.overlap"] = () => Accept(Command.DmaMap, _ => true, 0),
        ["dma.again"] = () =>
        {
            var seen = new HashSet<ulong>();
            return Refuse(Command.DmaMap, m => !seen.Add(m.As<DmaMapBody>().Address), Errno.EEXIST);
        },
        ["dma.wrong"] = () => Accept(Command.DmaMap, m => m.As<DmaMapBody>().Flags > 3, 0),
        ["dma.unmap-part"] = () => Accept(Command.DmaUnmap, _ => true, 24),
        ["dma.unmap-all"] = () => Swallow(Command.DmaUnmap, m => m.As<DmaUnmapBody>().Flags == DmaUnmapFlags.All),
        ["dma.limit"] = () =>
        {
            int maps = 0;
            return Refuse(Command.DmaMap, _ => ++maps > 1000, Errno.ENOSPC);
        },

        ["migration.support"] = () => PatchFeature(Feature.Migration, FeatureFlags.Get, m => m.Reply![8] = (byte)MigrationSupport.P2P),
        ["migration.probe"] = () => AcceptFeature((Feature)0xFFFF, FeatureFlags.Get | FeatureFlags.Probe),
        ["migration.initial"] = () => Swallow(Command.DeviceReset, _ => true),
        ["migration.arcs"] = () => Before(IsStateSet, m => m.Accept([]), DeviceMigrationState.PreCopy),
        ["migration.no-arcs"] = () => AcceptFeature(Feature.MigrationDeviceState, FeatureFlags.Set),
        ["migration.no-state"] = () => new Spoil(After: m =>
        {
            if (m.Error != Errno.None && IsStateSet(m) && StateOf(m) > 7)
                m.Accept(m.Request);
        }),

        ["state.when"] = () => Accept(Command.MigrationDataRead, _ => true, 8),
        ["state.requests"] = () => Accept(Command.MigrationDataWrite, _ => true, 0),
        ["state.pre-copy"] = () =>
        {
            uint state = 2;
            return new Spoil(After: m =>
            {
                if (IsStateSet(m))
                    state = StateOf(m);
                if (m.Command == Command.MigrationDataRead && state == (uint)DeviceMigrationState.PreCopy)
                    m.Refuse();
            });
        },
        ["state.save"] = () => Patch(Command.MigrationDataRead, m => m.Reply = new byte[8]),
        // 8 bytes of the message, 20 before configuration space: another interrupt line arrives.
        ["state.restore"] = () => new Spoil(m =>
        {
            if (m.Command == Command.MigrationDataWrite)
                m.Request[8 + 20 + 0x3C] ^= 1;
        }),
        ["state.damaged"] = () => AcceptFeature(Feature.MigrationDeviceState, FeatureFlags.Set),

        ["logging.start-stop"] = () =>
        {
            int starts = 0;
            return new Spoil(After: m =>
            {
                if (IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set) && ++starts > 1)
                    m.Refuse();
            });
        },
        ["logging.start-twice"] = () => AcceptFeature(Feature.DmaLoggingStart, FeatureFlags.Set),
        ["logging.overlap"] = () => Before(m => IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set), ForgetRanges),
        ["logging.too-many"] = () => Before(m => IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set), ForgetRanges),
        ["logging.page-size"] = () => Before(m => IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set), m => BitConverter.TryWriteBytes(m.Request.AsSpan(8), 4096UL)),
        ["logging.stopped"] = () => AcceptFeature(Feature.DmaLoggingReport, FeatureFlags.Get),
        ["logging.report"] = () => PatchFeature(Feature.DmaLoggingReport, FeatureFlags.Get, m => m.Reply = m.Reply![..^8]),
        ["logging.outside"] = () => PatchFeature(Feature.DmaLoggingReport, FeatureFlags.Get, m => m.Reply![32] = 1),

        ["dirty.marks"] = () => PatchFeature(Feature.DmaLoggingReport, FeatureFlags.Get, m => m.Reply.AsSpan(32).Clear()),
        ["dirty.once"] = () =>
        {
            byte[] all = new byte[1 << 16];
            return PatchFeature(Feature.DmaLoggingReport, FeatureFlags.Get, m =>
            {
                for (int i = 32; i < m.Reply!.Length; i++)
                    m.Reply[i] = all[i] |= m.Reply[i];
            });
        },
        ["dirty.ranges"] = () => Before(m => IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set), ForgetRanges),
        ["dirty.page-sizes"] = () => PatchFeature(Feature.DmaLoggingReport, FeatureFlags.Get, m =>
        {
            if (BitConverter.ToUInt64(m.Request, 24) > 4096)
                m.Reply![32] = 1;
        }),
        ["dirty.restart"] = () =>
        {
            int starts = 0;
            return new Spoil(After: m =>
            {
                if (IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set))
                    starts++;
                if (starts > 1 && IsFeature(m, Feature.DmaLoggingReport, FeatureFlags.Get))
                    m.Reply![32] = 0x10;
            });
        },
        ["dirty.stopped"] = () =>
        {
            bool stopped = false;
            return new Spoil(After: m =>
            {
                if (IsStateSet(m))
                    stopped = StateOf(m) == (uint)DeviceMigrationState.Stop;
                if (stopped && IsFeature(m, Feature.DmaLoggingReport, FeatureFlags.Get))
                    m.Reply.AsSpan(32).Clear();
            });
        },

        ["connection.again"] = () =>
        {
            bool mapped = false;
            return new Spoil(m => mapped |= m.Command == Command.DmaMap) { OnGone = _ => mapped };
        },
        ["connection.torn"] = () => new Spoil { OnGone = inside => inside },
        ["connection.length"] = () => new Spoil(m =>
        {
            if (m.Header.Length < MessageHeader.Size)
                m.Accept(new byte[16]);
        }),
        ["connection.second"] = () => new Spoil { SecondThrowsOutFirst = true },
    };

    private static Spoil Patch(Command command, Action<Exchange> change) => new(After: m =>
    {
        if (m.Command == command && m.Error == Errno.None && m.Header.WantsReply)
            change(m);
    });

    private static Spoil PatchConfig(ulong offset, uint count, ConfigChange change) => Patch(Command.RegionRead, m =>
    {
        if (m.As<RegionAccessBody>() is { Region: PciRegion.Config } read && read.Offset == offset && read.Count == count)
            change(m, m.Reply.AsSpan(16));
    });

    private static Spoil Accept(Command command, Predicate<Exchange> which, int bytes) => new(After: m =>
    {
        if (m.Command == command && m.Error != Errno.None && which(m))
            m.Accept([.. m.Request.Take(bytes), .. new byte[Math.Max(0, bytes - m.Request.Length)]]);
    });

    private static Spoil AcceptRead(Predicate<Exchange> which) => new(After: m =>
    {
        if (m.Command == Command.RegionRead && m.Error != Errno.None && which(m))
            m.Accept([.. m.Request, .. new byte[m.As<RegionAccessBody>().Count & 0xFFFF]]);
    });

    private static Spoil Refuse(Command command, Predicate<Exchange> which, Errno error = Errno.EINVAL) => new(After: m =>
    {
        if (m.Command == command && m.Error == Errno.None && which(m))
            m.Refuse(error);
    });

    /// <summary>Says yes and does nothing.</summary>
    private static Spoil Swallow(Command command, Predicate<Exchange> which) => new(m =>
    {
        if (m.Command == command && which(m))
            m.Accept(command == Command.DmaUnmap ? m.Request : []);
    });

    private static Spoil Before(Predicate<Exchange> which, Action<Exchange> change, DeviceMigrationState? state = null) => new(m =>
    {
        if (which(m) && (state is null || StateOf(m) == (uint)state))
            change(m);
    });

    private static Spoil PatchFeature(Feature feature, FeatureFlags method, Action<Exchange> change) => Patch(Command.DeviceFeature, m =>
    {
        if (IsFeature(m, feature, method))
            change(m);
    });

    private static Spoil AcceptFeature(Feature feature, FeatureFlags methods) => new(After: m =>
    {
        if (m.Error != Errno.None && IsFeature(m, feature, methods))
            m.Accept(m.Request);
    });

    private static bool IsFeature(Exchange m, Feature feature, FeatureFlags methods) =>
        m.Command == Command.DeviceFeature && m.As<FeatureBody>() is var body && body.Index == feature && (body.Flags & ~FeatureFlags.IndexMask) == methods;

    private static bool IsStateSet(Exchange m) => IsFeature(m, Feature.MigrationDeviceState, FeatureFlags.Set) && m.Request.Length >= 16;

    private static uint StateOf(Exchange m) => BitConverter.ToUInt32(m.Request, 8);

    private static void SetCount(Exchange m, int index, uint count)
    {
        if (m.As<IrqInfoBody>().Index == index)
            BitConverter.TryWriteBytes(m.Reply.AsSpan(12), count);
    }

    private static void ForgetRanges(Exchange m)
    {
        m.Request = m.Request[..(Unsafe.SizeOf<FeatureBody>() + Unsafe.SizeOf<LogControlBody>())];
        BitConverter.TryWriteBytes(m.Request.AsSpan(16), 0u);
    }

    /// <summary>Sends one descriptor in the place of another.</summary>
    private static void ReplaceFile(Exchange m, int which, int with)
    {
        if (m.ReplyFiles.Count <= Math.Max(which, with))
            return;
        m.ReplyFiles[which].Dispose();
        m.ReplyFiles[which] = m.ReplyFiles[with].Duplicate();
    }

    private static byte[] Replace(byte[] text, string old, string other) =>
        [.. text[..4], .. Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(text.AsSpan(4)).Replace(old, other, StringComparison.Ordinal))];
}
