using System.Collections.Immutable;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Compares what the host's IOMMU can translate with what the guest may use.</summary>
internal static class HostReach
{
    /// <summary>
    /// Addresses at which an x86 machine takes interrupt messages instead of DMA (Intel SDM vol. 3, 11.11.1), host and guest alike: nothing is
    /// ever mapped there.
    /// </summary>
    private const ulong InterruptFirst = 0xFEE0_0000, InterruptLast = 0xFEEF_FFFF;

    /// <summary>Throws when something is missing.</summary>
    /// <param name="device">Address of the device, for the message.</param>
    /// <param name="usable">What the host takes, ascending; empty when it does not tell.</param>
    /// <param name="guest">What the guest may use.</param>
    /// <exception cref="HostAddressRangeException">Something is missing.</exception>
    public static void Check(string device, ImmutableArray<UsableIovas> usable, in GuestReach guest)
    {
        if (usable.IsEmpty)
            return;
        foreach (BusRange ram in guest.Ram)
        {
            if (Missing(usable, ram.First.Value, ram.Last.Value) is { } hole)
                throw Error(device, usable, $"guest memory lies at {Text(ram.First.Value, ram.Last.Value)}", hole);
        }

        if (guest.LastIova is { } last && Missing(usable, 0, last.Value) is { } missing)
            throw Error(device, usable, $"the vIOMMU translates {Text(0, last.Value)} (fewer address bits would do with less)", missing);
    }

    /// <summary>The lowest part of a range that the host does not take, outside the interrupt window.</summary>
    internal static (ulong First, ulong Last)? Missing(ImmutableArray<UsableIovas> usable, ulong first, ulong last)
    {
        ulong at = first;
        foreach (UsableIovas range in usable)
        {
            if (range.Last.Value < at)
                continue;
            if (range.First.Value > last)
                break;
            if (range.First.Value > at && Outside(at, range.First.Value - 1) is { } hole)
                return hole;
            if (range.Last.Value >= last)
                return null;
            at = range.Last.Value + 1;
        }

        return Outside(at, last);
    }

    /// <summary>What is left of a hole without the interrupt window; of two parts the lower one.</summary>
    private static (ulong First, ulong Last)? Outside(ulong first, ulong last)
    {
        if (first < InterruptFirst)
            return (first, Math.Min(last, InterruptFirst - 1));
        ulong above = Math.Max(first, InterruptLast + 1);
        return above <= last ? (above, last) : null;
    }

    private static HostAddressRangeException Error(string device, ImmutableArray<UsableIovas> usable, string wanted, (ulong First, ulong Last) missing) => new(
        device, wanted, Text(missing.First, missing.Last), string.Join(", ", usable.Select(r => Text(r.First.Value, r.Last.Value))));

    private static string Text(ulong first, ulong last) => $"0x{first:x}-0x{last:x}";
}
