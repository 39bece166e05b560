using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>For checks that look at several things, a device that is wrong in each of the others.</summary>
internal static class FurtherBrokenDevices
{
    public static IReadOnlyDictionary<string, (string Check, string Why, Func<Spoil> Make)> ByFlaw { get; } = new Dictionary<string, (string, string, Func<Spoil>)>(StringComparer.Ordinal)
    {
        ["keeps the mappings of a client that has gone"] = ("connection.again", "refused with EEXIST", () =>
        {
            var kept = new List<DmaMapBody>();
            int old = 0;
            return new Spoil(m =>
            {
                if (m.Command == Command.Version)
                    old = kept.Count;
                if (m.Command == Command.DmaUnmap)
                    kept.Clear();
                if (m.Command != Command.DmaMap)
                    return;
                var map = m.As<DmaMapBody>();
                if (kept.Take(old).Any(other => map.Address < other.Address + other.Size && other.Address < map.Address + map.Size && (map.Address, map.Size) != (other.Address, other.Size)))
                    m.Refuse(Errno.EEXIST);
                kept.Add(map);
            });
        }
        ),
        ["keeps the eventfds of a client that has gone"] = ("connection.again", "after its client had gone", () =>
        {
            EventFd? kept = null;
            bool old = false;
            return new Spoil(m =>
            {
                old |= m.Command == Command.Version && kept is not null;
                if (m.Command != Command.DeviceSetIrqs)
                    return;
                if (m.RequestFiles.Count == 1 && !old)
                    ReceivedEventFd.TryTake(m.RequestFiles[0], out kept);
                if (old && m.As<SetIrqsBody>() is { Flags: IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, Count: 1 })
                    kept!.Signal();
            })
            {
                OnDone = () => kept?.Dispose(),
            };
        }
        ),
        ["keeps the log of a client that has gone"] = ("connection.again", "the log of a client that has gone is not refused", () =>
        {
            bool logs = false;
            bool old = false;
            return new Spoil(
                m =>
                {
                    old |= logs && m.Command == Command.Version;
                    logs |= IsFeature(m, Feature.DmaLoggingStart, FeatureFlags.Set);
                },
                m =>
                {
                    if (old && IsFeature(m, Feature.DmaLoggingReport, FeatureFlags.Get))
                        m.Accept(m.Request);
                });
        }
        ),
        ["drops its registers"] = ("state.restore", "registers of BAR 0", () =>
        {
            bool restored = false;
            return new Spoil(
                m => restored |= m.Command == Command.MigrationDataWrite,
                m =>
                {
                    if (restored && m.Command == Command.RegionRead && m.As<RegionAccessBody>().Region == PciRegion.Bar0)
                        m.Reply.AsSpan(16).Clear();
                });
        }
        ),
        ["saves another state than it was given"] = ("state.restore", "it saves", () =>
        {
            bool restored = false;
            return new Spoil(
                m => restored |= m.Command == Command.MigrationDataWrite,
                m =>
                {
                    if (restored && m.Command == Command.MigrationDataRead && m.Reply!.Length > 8)
                        m.Reply[^1] ^= 1;
                });
        }
        ),
        ["stays in RESUMING"] = ("migration.arcs", "after Resuming to PreCopy it is in Resuming", () =>
        {
            bool written = false;
            return new Spoil(m =>
            {
                written = (written && m.Command != Command.DeviceReset) || m.Command == Command.MigrationDataWrite;
                if (written && IsFeature(m, Feature.MigrationDeviceState, FeatureFlags.Set) && BitConverter.ToUInt32(m.Request, 8) == (uint)DeviceMigrationState.PreCopy)
                    m.Accept(m.Request);
            });
        }
        ),
        ["takes more mappings than it says"] = ("dma.limit", "max_dma_maps is 64, and one mapping more is taken", () =>
            new Spoil(After: m =>
            {
                if (m.Command == Command.Version)
                    m.Reply = Encoding.UTF8.GetBytes(Encoding.Latin1.GetString(m.Reply!).Replace("\"max_dma_maps\":65535", "\"max_dma_maps\":64", StringComparison.Ordinal));
            })
        ),
        ["ends the connection at one mapping too many"] = ("dma.limit", "closed the connection instead of answering DMA_MAP", () =>
        {
            int maps = 0;
            return new Spoil(
                m => m.Close = m.Command == Command.DmaMap && ++maps > 64,
                m =>
                {
                    if (m.Command == Command.Version)
                        m.Reply = Encoding.UTF8.GetBytes(Encoding.Latin1.GetString(m.Reply!).Replace("\"max_dma_maps\":65535", "\"max_dma_maps\":64", StringComparison.Ordinal));
                });
        }
        ),
    };

    /// <summary>What is wrong with an instance that another one's state is restored into, and what the check says of it.</summary>
    public static IReadOnlyDictionary<string, (string Why, Func<Spoil> Make)> OfSecondInstance { get; } = new Dictionary<string, (string, Func<Spoil>)>(StringComparer.Ordinal)
    {
        ["refuses the state"] = ("MIG_DATA_WRITE of the device's own state is refused with EINVAL", () => new Spoil(m =>
        {
            if (m.Command == Command.MigrationDataWrite)
                m.Refuse();
        })),
        ["refuses to have it"] = ("Stop is refused with EINVAL", () => new Spoil(m =>
        {
            if (IsFeature(m, Feature.MigrationDeviceState, FeatureFlags.Set) && BitConverter.ToUInt32(m.Request, 8) == (uint)DeviceMigrationState.Stop)
                m.Refuse();
        })),
        ["throws the state away"] = ("configuration space has", () => new Spoil(m =>
        {
            if (m.Command == Command.MigrationDataWrite || (IsFeature(m, Feature.MigrationDeviceState, FeatureFlags.Set) && BitConverter.ToUInt32(m.Request, 8) == (uint)DeviceMigrationState.Resuming))
                m.Accept(m.Command == Command.MigrationDataWrite ? [] : m.Request);
        })),
        ["is gone"] = ("VERSION", () => new Spoil(m => m.Close = true)),
    };

    private static bool IsFeature(Exchange m, Feature feature, FeatureFlags methods) =>
        m.Command == Command.DeviceFeature && m.As<FeatureBody>() is var body && body.Index == feature && (body.Flags & ~FeatureFlags.IndexMask) == methods;
}
