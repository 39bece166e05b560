using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>Builds the capabilities behind an info structure the way the kernel does (drivers/vfio/vfio_main.c, vfio_info_cap_add).</summary>
internal sealed class CapabilityChain(int head)
{
    private readonly List<byte> _bytes = [];
    private int _last = -1;

    public void Add<T>(ushort id, T capability, ReadOnlySpan<byte> body) where T : unmanaged
    {
        while (_bytes.Count % 8 != 0)
            _bytes.Add(0);
        int at = _bytes.Count;
        _bytes.AddRange(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in capability)));
        _bytes.AddRange(body);
        MemoryMarshal.Write(CollectionsMarshal.AsSpan(_bytes)[at..], new vfio_info_cap_header { id = id, version = 1 });
        if (_last >= 0)
            MemoryMarshal.Write(CollectionsMarshal.AsSpan(_bytes)[(_last + 4)..], (uint)(head + at));
        _last = at;
    }

    /// <summary>Copies when there is room, else only says how much is needed.</summary>
    public void Finish(Span<byte> argument, uint given, out uint needed, out uint offset)
    {
        needed = (uint)(head + _bytes.Count);
        offset = 0;
        if (given < needed)
            return;
        offset = _bytes.Count == 0 ? 0 : (uint)head;
        CollectionsMarshal.AsSpan(_bytes).CopyTo(argument[head..]);
        needed = given;
    }
}
