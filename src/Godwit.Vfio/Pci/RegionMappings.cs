using System.Diagnostics.CodeAnalysis;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// The parts of a device's regions that are mapped into this process, and the gate before them. An access through a mapping whose memory is not
/// there ends the process (SIGBUS), so accesses are made while the gate is open only, and whoever takes the memory away closes it first: that
/// returns when no access is left inside. Accesses take no lock and allocate nothing. Closed at first. Any thread.
/// </summary>
internal sealed unsafe class RegionMappings : IDisposable
{
    private const int Closed = int.MinValue;

    private readonly Area[]?[] _regions = new Area[]?[PciRegion.Count];
    private readonly Lock _setup = new();
    private int _gate = Closed; // accesses inside, and the sign when it is closed
    private bool _disposed;

    /// <summary>
    /// Maps parts of a region and has accesses to them made there once the gate is open.
    /// </summary>
    /// <param name="index">The region; not mapped before.</param>
    /// <param name="areas">Which parts.</param>
    /// <param name="map">Maps so many bytes from an offset of the region, a multiple of the page.</param>
    /// <returns>Bytes of <paramref name="areas"/>.</returns>
    /// <exception cref="DeviceRefusedException">One cannot be mapped; then none is.</exception>
    /// <exception cref="DeviceLostException">After <see cref="Dispose"/>.</exception>
    public ulong Map(int index, List<SparseArea> areas, Mapper map)
    {
        List<Area> mapped = [];
        lock (_setup)
        {
            if (_disposed)
                throw new DeviceLostException($"region {index} cannot be mapped: the device has gone");
            try
            {
                foreach (SparseArea area in areas)
                {
                    Errno errno = map(area, out MemoryMapping? mapping);
                    if (mapping is null)
                        throw new DeviceRefusedException($"to map {area.Size} bytes at 0x{area.Offset:x} of region {index}", errno);
                    mapped.Add(new Area(area.Offset, area.Size, mapping));
                }
            }
            catch
            {
                foreach (Area other in mapped)
                    other.Mapping.Dispose();
                throw;
            }

            Volatile.Write(ref _regions[index], [.. mapped]);
            return areas.Aggregate(0UL, (sum, area) => sum + area.Size);
        }
    }

    /// <summary>Reads through a mapping; false when there is none, the gate is closed, or it would take more than one access.</summary>
    public bool TryRead(int index, ulong offset, Span<byte> destination)
    {
        if (!TryEnter(index, offset, destination.Length, out byte* at))
            return false;
        try
        {
            // SAFETY: inside the gate and the area, aligned; one load of exactly that width, as a register wants it.
            ulong value = destination.Length switch
            {
                1 => Volatile.Read(ref *at),
                2 => Volatile.Read(ref *(ushort*)at),
                4 => Volatile.Read(ref *(uint*)at),
                _ => Volatile.Read(ref *(ulong*)at),
            };
            new ReadOnlySpan<byte>(&value, destination.Length).CopyTo(destination);
            return true;
        }
        finally
        {
            Interlocked.Decrement(ref _gate);
        }
    }

    /// <summary>Writes likewise.</summary>
    public bool TryWrite(int index, ulong offset, ReadOnlySpan<byte> data)
    {
        if (!TryEnter(index, offset, data.Length, out byte* at))
            return false;
        try
        {
            ulong value = 0;
            data.CopyTo(new Span<byte>(&value, data.Length));
            // SAFETY: as for reading. Entering the gate was a full fence: what the device is told to fetch has been written.
            switch (data.Length)
            {
                case 1:
                    Volatile.Write(ref *at, (byte)value);
                    break;
                case 2:
                    Volatile.Write(ref *(ushort*)at, (ushort)value);
                    break;
                case 4:
                    Volatile.Write(ref *(uint*)at, (uint)value);
                    break;
                default:
                    Volatile.Write(ref *(ulong*)at, value);
                    break;
            }

            return true;
        }
        finally
        {
            Interlocked.Decrement(ref _gate);
        }
    }

    /// <summary>The memory is there.</summary>
    public void Open()
    {
        lock (_setup)
        {
            if (!_disposed)
                Interlocked.And(ref _gate, ~Closed);
        }
    }

    /// <summary>The memory is about to go; when this returns nobody uses it, and nobody will before <see cref="Open"/>.</summary>
    public void Close()
    {
        lock (_setup)
            CloseAndWait();
    }

    /// <summary>Closes it for good and unmaps everything.</summary>
    public void Dispose()
    {
        // One step for all others: who finds it disposed finds it closed, and nobody opens it in between.
        lock (_setup)
        {
            CloseAndWait();
            _disposed = true;
            foreach (Area[]? areas in _regions)
            {
                foreach (Area area in areas ?? [])
                    area.Mapping.Dispose();
            }
        }
    }

    private void CloseAndWait()
    {
        Interlocked.Or(ref _gate, Closed);
        var spin = new SpinWait();
        while (Volatile.Read(ref _gate) != Closed)
            spin.SpinOnce();
    }

    private bool TryEnter(int index, ulong offset, int length, out byte* at)
    {
        at = null;
        if ((uint)index >= (uint)_regions.Length || Volatile.Read(ref _regions[index]) is not { } areas || !Find(areas, offset, length, out Area? area))
            return false;
        if (Volatile.Read(ref _gate) < 0)
            return false;
        if (Interlocked.Increment(ref _gate) < 0)
        {
            Interlocked.Decrement(ref _gate);
            return false;
        }

        at = area.Mapping.Address + (offset - area.Offset);
        return true;
    }

    private static bool Find(Area[] areas, ulong offset, int length, [NotNullWhen(true)] out Area? found)
    {
        found = null;
        if (length is not (1 or 2 or 4 or 8) || (offset & (uint)(length - 1)) != 0)
            return false;
        foreach (Area area in areas)
        {
            if (offset >= area.Offset && offset - area.Offset < area.Size && (ulong)length <= area.Size - (offset - area.Offset))
            {
                found = area;
                return true;
            }
        }

        return false;
    }

    /// <summary>Maps a part of a region; its length may be rounded up to pages.</summary>
    public delegate Errno Mapper(SparseArea area, out MemoryMapping? mapping);

    private sealed record Area(ulong Offset, ulong Size, MemoryMapping Mapping);
}
