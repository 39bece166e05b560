namespace Godwit.Machine.Guests;

/// <summary>Random numbers of a program, whose state lies in its control block (xorshift64*).</summary>
internal static class GuestRandom
{
    /// <summary>The next number; a state of 0, which would stay, is replaced.</summary>
    public static ulong Next(ref ulong state)
    {
        ulong x = state == 0 ? 0x9E37_79B9_7F4A_7C15 : state;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state = x;
        return x * 0x2545_F491_4F6C_DD1D;
    }

    /// <summary>The next number below <paramref name="limit"/> (1 to 2^32).</summary>
    public static ulong Next(ref ulong state, ulong limit) => (ulong)(((UInt128)Next(ref state) * limit) >> 64);
}
