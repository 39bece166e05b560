using System.Numerics;
using Godwit.Memory;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

public abstract partial class PciFunction
{
    private readonly Bar?[] _bars = new Bar?[6];

    /// <summary>Base address registers that a header of this type has.</summary>
    private protected virtual int BarCount => 6;

    /// <summary>
    /// Declares BAR <paramref name="index"/> (0-5; 0-1 in a bridge). The region appears while Memory Space is enabled and the BAR is
    /// programmed; RAM and the board's own windows hide it where they overlap.
    /// </summary>
    /// <exception cref="ArgumentException">
    /// The index does not exist or is in use; the size is no power of two from 16 bytes up to 2 GiB (64-bit: 2^62).
    /// </exception>
    protected void SetBar(int index, BarKind kind, bool prefetchable, MemoryRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        int registers = kind == BarKind.Memory64 ? 2 : 1;
        if (index < 0 || index + registers > BarCount)
            throw new ArgumentException($"{Name}: a {kind} BAR cannot be number {index}; the header has {BarCount} registers", nameof(index));
        if (_bars[index] is not null || (registers == 2 && _bars[index + 1] is not null)
            || (index > 0 && _bars[index - 1] is { Kind: BarKind.Memory64 }))
            throw new ArgumentException($"{Name}: BAR {index} is in use", nameof(index));
        ulong limit = kind == BarKind.Memory64 ? 1UL << 62 : 1UL << 31;
        if (region.Size < 16 || region.Size > limit || !BitOperations.IsPow2((ulong)region.Size))
        {
            throw new ArgumentException(
                $"{Name}: BAR {index} has {region.Size} bytes; a {kind} BAR has a power of two from 16 to {limit}", nameof(region));
        }

        var bar = new Bar(index, kind, prefetchable, region, (ulong)region.Size);
        int offset = ConfigOffset.Bar0 + (index * 4);
        ulong addressBits = ~(bar.Size - 1);
        uint flags = (kind == BarKind.Memory64 ? ConfigBits.Bar64 : 0) | (prefetchable ? ConfigBits.BarPrefetchable : 0);
        Config.Define(offset, 4, flags, (uint)addressBits & ~ConfigBits.BarFlags);
        if (kind == BarKind.Memory64)
            Config.Define(offset + 4, 4, 0, (uint)(addressBits >> 32));
        _bars[index] = bar;
    }

    /// <summary>What the BARs say now.</summary>
    internal IEnumerable<PciBarInfo> DescribeBars()
    {
        foreach (Bar? bar in _bars)
        {
            if (bar is not null)
                yield return new PciBarInfo(bar.Index, bar.Kind, bar.Prefetchable, bar.Size, bar.Mapped is { } address ? new Gpa(address) : null);
        }
    }

    /// <summary>Puts the regions and the bus master window where the registers now say. Under the configuration lock.</summary>
    private void ApplyDecoding()
    {
        if (_bus is null)
            return;
        PciHostBridge host = _bus.Host;
        bool decoding = (Config.Read(ConfigOffset.Command, 2) & ConfigBits.CommandMemorySpace) != 0;
        bool mastering = BusMasterEnabled;
        if (mastering && _spaces is null)
            CreateSpaces();
        bool changed = _spaces is { } made && made.Window.Enabled != mastering;
        foreach (Bar? bar in _bars)
            changed |= bar is not null && bar.Mapped != WantedAddress(bar, decoding);
        if (!changed)
            return;

        using TopologyTransaction transaction = host.Topology.Begin();
        if (_spaces is { } spaces && spaces.Window.Enabled != mastering)
            host.Topology.SetEnabled(spaces.Window, mastering);
        foreach (Bar? bar in _bars)
        {
            if (bar is null || WantedAddress(bar, decoding) is var wanted && wanted == bar.Mapped)
                continue;
            if (bar.Mapped is not null)
                host.Topology.Remove(bar.Region);
            if (wanted is { } address)
                host.Topology.Add(host.Memory, new BusAddress(address), bar.Region);
            bar.Mapped = wanted;
        }
    }

    /// <summary>
    /// The address decoded, or null. A BAR at 0 has not been programmed, one that ends at the top of its space is being sized: neither
    /// answers, although a guest may forget to turn Memory Space off meanwhile.
    /// </summary>
    private ulong? WantedAddress(Bar bar, bool decoding)
    {
        if (!decoding)
            return null;
        int offset = ConfigOffset.Bar0 + (bar.Index * 4);
        ulong address = Config.Read(offset, 4) & ~ConfigBits.BarFlags;
        if (bar.Kind == BarKind.Memory64)
            address |= (ulong)Config.Read(offset + 4, 4) << 32;
        ulong last = address + (bar.Size - 1); // aligned, so this cannot wrap
        bool sizing = last == (bar.Kind == BarKind.Memory64 ? ulong.MaxValue : uint.MaxValue);
        return address == 0 || sizing ? null : address;
    }

    private sealed class Bar(int index, BarKind kind, bool prefetchable, MemoryRegion region, ulong size)
    {
        internal int Index => index;
        internal BarKind Kind => kind;
        internal bool Prefetchable => prefetchable;
        internal MemoryRegion Region => region;
        internal ulong Size => size;

        /// <summary>Where it is placed now.</summary>
        internal ulong? Mapped { get; set; }
    }
}
