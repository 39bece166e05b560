namespace Godwit.Machine.Bench;

/// <summary>One configuration of machine and guest.</summary>
internal sealed record Case(string Name, IommuKind Iommu, string Options)
{
    private const string Quiet = "dirty-rate=0 churn=0 working-set=1M";

    public static IReadOnlyList<Case> All { get; } =
    [
        new("4K, depth 32, no vIOMMU", IommuKind.None, $"{Quiet} io-size=4K"),
        new("4K, depth 32, pass-through", IommuKind.Intel, $"{Quiet} io-size=4K iommu=passthrough"),
        new("4K, depth 32, translated, strict", IommuKind.Intel, $"{Quiet} io-size=4K map=strict"),
        new("4K, depth 32, translated, lazy", IommuKind.Intel, $"{Quiet} io-size=4K map=lazy"),
        new("4K, depth 1, translated, strict", IommuKind.Intel, $"{Quiet} io-size=4K queue-depth=1"),
        new("64K, depth 32, no vIOMMU", IommuKind.None, Quiet),
        new("64K, depth 32, translated, strict", IommuKind.Intel, $"{Quiet} map=strict"),
        new("64K, depth 32, translated, lazy", IommuKind.Intel, $"{Quiet} map=lazy"),
        new("4K random reads, depth 1", IommuKind.Intel, $"{Quiet} io-size=4K read-percent=100 queue-depth=1"),
        new("4K random reads, depth 32", IommuKind.Intel, $"{Quiet} io-size=4K read-percent=100"),
        new("4K random reads, depth 256", IommuKind.Intel, $"{Quiet} io-size=4K read-percent=100 queue-depth=256"),
        new("moving buffers only", IommuKind.Intel, "dirty-rate=0 working-set=1M io-size=4K io-rate=1 churn=1000000"),
        new("the demo's defaults", IommuKind.Intel, ""),
    ];

    public IReadOnlyDictionary<string, string> GuestOptions => Options.Split(' ', StringSplitOptions.RemoveEmptyEntries)
        .Select(word => word.Split('=')).ToDictionary(pair => pair[0], pair => pair[1], StringComparer.Ordinal);
}
