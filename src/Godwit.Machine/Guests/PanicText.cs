using System.Runtime.InteropServices;
using System.Text;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests;

/// <summary>Why a guest cannot go on, in its RAM at <see cref="GuestLayout.PanicText"/>: length (4 bytes) and UTF-8.</summary>
internal static class PanicText
{
    public const int MaxBytes = 1024;

    public static void Store(GuestBus bus, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        int length = Math.Min(bytes.Length, MaxBytes);
        bus.Store(GuestLayout.PanicText + 4, bytes.AsSpan(0, length));
        bus.Store(GuestLayout.PanicText, length); // last: whoever reads it finds the text complete
    }

    /// <summary>Host side: the text, or null, whatever RAM holds.</summary>
    public static string? Read(GuestBus memory)
    {
        Span<byte> bytes = stackalloc byte[4 + MaxBytes];
        if (!memory.TryRead(GuestLayout.PanicText, bytes))
            return null;
        int length = MemoryMarshal.Read<int>(bytes);
        return length is > 0 and <= MaxBytes ? Encoding.UTF8.GetString(bytes.Slice(4, length)) : null;
    }
}
