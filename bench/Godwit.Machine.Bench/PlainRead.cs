using System.Diagnostics;

namespace Godwit.Machine.Bench;

/// <summary>The floor of reads from an image: pread of 4 KiB at random places of a file as large as the guest's region, from the page cache.</summary>
internal static class PlainRead
{
    private const int Block = 4096;
    private const int Blocks = (64 << 20) / Block;

    /// <summary>Reads for so long on one thread; how many a second.</summary>
    public static double Measure(double seconds)
    {
        string path = Path.GetTempFileName();
        try
        {
            byte[] data = new byte[64 << 20];
            new Random(1).NextBytes(data);
            File.WriteAllBytes(path, data);
            using var file = File.OpenHandle(path);
            var random = new Random(2);
            long count = 0;
            long start = Stopwatch.GetTimestamp();
            while (Stopwatch.GetElapsedTime(start).TotalSeconds < seconds)
            {
                for (int i = 0; i < 64; i++, count++)
                    RandomAccess.Read(file, data.AsSpan(0, Block), (long)random.Next(Blocks) * Block);
            }
            return count / Stopwatch.GetElapsedTime(start).TotalSeconds;
        }
        finally
        {
            File.Delete(path);
        }
    }
}
