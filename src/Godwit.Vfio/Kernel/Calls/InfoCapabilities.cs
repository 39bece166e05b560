using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// The chain of capabilities behind an info structure (vfio.h, vfio_info_cap_header): offsets count from the structure's first byte and
/// ascend; a chain that does not, or leaves the buffer, ends there.
/// </summary>
internal readonly ref struct InfoCapabilities(ReadOnlySpan<byte> info, uint first)
{
    private readonly ReadOnlySpan<byte> _info = info;

    /// <summary>Steps through them.</summary>
    public Enumerator GetEnumerator() => new(_info, first);

    /// <summary>Steps through a chain.</summary>
    internal ref struct Enumerator(ReadOnlySpan<byte> info, uint first)
    {
        private readonly ReadOnlySpan<byte> _info = info;
        private uint _next = first;

        /// <summary>The capability stepped to.</summary>
        public InfoCapability Current { get; private set; }

        /// <summary>Steps on; false at the end.</summary>
        public bool MoveNext()
        {
            int size = Marshal.SizeOf<vfio_info_cap_header>();
            if (_next == 0 || _next > _info.Length - size)
                return false;
            vfio_info_cap_header header = MemoryMarshal.Read<vfio_info_cap_header>(_info[(int)_next..]);
            uint end = header.next > _next && header.next <= _info.Length ? header.next : (uint)_info.Length;
            Current = new InfoCapability(header.id, _info[(int)_next..(int)end]);
            _next = header.next > _next ? header.next : 0;
            return true;
        }
    }
}

/// <summary>One capability, with its header.</summary>
internal readonly ref struct InfoCapability(ushort id, ReadOnlySpan<byte> bytes)
{
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    /// <summary>Its id.</summary>
    public ushort Id { get; } = id;

    /// <summary>The structure; false when it is cut off.</summary>
    public bool TryRead<T>(out T value) where T : unmanaged => MemoryMarshal.TryRead(_bytes, out value);

    /// <summary>What follows the structure.</summary>
    public ReadOnlySpan<byte> Body<T>() where T : unmanaged => _bytes[Math.Min(Marshal.SizeOf<T>(), _bytes.Length)..];
}
